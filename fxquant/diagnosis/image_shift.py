"""Whether the calibration images look unlike the evaluation images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fxquant.diagnosis.examined import Examined, pixels
from fxquant.diagnosis.section import DoctorSection

FALSE_ALARMS = 0.001  # the part of pairs of sets of one distribution that are told to differ, at most
_DRAWS = 1999
_FEWEST = 5  # images of each set: with four of both no split in two is rare enough

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ImageShift:
    """
    How two sets of images differ.

    distance: the largest Kolmogorov-Smirnov distance of all statistics, 0..1; p: how often a random split of the same images
    has one as large. statistic: the one that it is of. medians: of it, in both sets.
    """

    distance: float
    p: float
    statistic: str
    medians: tuple[float, float]


def check_shift(examined: Examined) -> tuple[DoctorSection, bool]:
    """Return the section, and whether the two sets were told to differ."""
    name, title = "shift", "Do the calibration images look like the evaluation images?"
    one, other = pixels(examined.calibration), pixels(examined.evaluation)
    missing = None
    if examined.made_up or not examined.calibration or not examined.evaluation:
        missing = "it needs calibration images and evaluation images"
    elif one is None or other is None or one.shape[1] != other.shape[1]:
        missing = "the model's first input is no batch of images (B, C, H, W) of one size"
    elif min(len(one), len(other)) < _FEWEST:
        missing = f"it needs at least {_FEWEST} images of each, there are {len(one)} and {len(other)}"
    if missing is not None or one is None or other is None:
        return DoctorSection(name, title, left_out=missing), False
    found = image_shift(one, other)
    differs = found.p <= FALSE_ALARMS
    said = (
        f"the {found.statistic} of an image has the median {found.medians[0]:.2f} in {len(one)} calibration images and "
        f"{found.medians[1]:.2f} in {len(other)} evaluation images; Kolmogorov-Smirnov distance {found.distance:.2f}, p = "
        f"{found.p:.4f}"
    )
    warnings = (f"calibration images look unlike the evaluation images: {said}",) if differs else ()
    lines = () if differs else (f"no difference found: the largest is that {said}",)
    figures = {"distance": found.distance, "p": found.p, "statistic": found.statistic, "threshold": FALSE_ALARMS}
    return DoctorSection(name, title, warnings, lines, figures=figures), differs


def image_shift(one: Tensor, other: Tensor, seed: int = 0) -> ImageShift:
    """
    Compare images ``(n, C, H, W)`` with others ``(m, C, H, W)`` by mean and standard deviation of each channel.

    The test is one of permutations: the largest Kolmogorov-Smirnov distance of the 2 C statistics is compared with that of
    random splits of all images into sets of the same sizes. Where both sets are of one distribution, p is at most alpha with a
    probability of at most alpha, whatever that distribution is, for all statistics together. seed: of the splits.
    """
    values = np.concatenate([_statistics(one), _statistics(other)])  # (n + m, 2 C)
    inside = np.arange(len(values)) < len(one)
    random = np.random.default_rng(seed)
    splits = np.stack([inside, *(random.permutation(inside) for _ in range(_DRAWS))])
    distances = np.stack([_distances(column, splits) for column in values.T])  # (2 C, 1 + draws)
    largest = distances.max(0)
    worst = int(distances[:, 0].argmax())
    p = float((largest >= largest[0] - 1e-9).mean())  # the split that was given is one of them
    channel, kind = worst % one.shape[1], ("mean", "standard deviation")[worst // one.shape[1]]
    medians = (float(np.median(values[inside, worst])), float(np.median(values[~inside, worst])))
    return ImageShift(float(largest[0]), p, f"{kind} of channel {channel}", medians)


def _statistics(images: Tensor) -> Floats:
    """Return the mean of each channel, then the standard deviation of each, ``(n, 2 C)``."""
    deviations, means = torch.std_mean(images.double(), (2, 3), correction=0)
    found: Floats = torch.cat((means, deviations), 1).numpy()
    return found


def _distances(values: Floats, splits: NDArray[np.bool_]) -> Floats:
    """Return for each of `splits` ``(S, n)`` the largest distance of the empirical distributions of both parts, ``(S,)``."""
    order = np.argsort(values, kind="stable")
    last = np.append(np.diff(values[order]) > 0, True)  # equal values count together
    first = splits[:, order]
    steps = np.where(first, 1 / splits[0].sum(), -1 / (~splits[0]).sum())
    distances: Floats = np.abs(steps.cumsum(1)[:, last]).max(1)
    return distances
