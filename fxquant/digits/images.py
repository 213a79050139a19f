"""Scikit-learn's 1,797 handwritten digits as normalised images, split once and for all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from fxquant.errors import InputError

CLASSES = 10
TEST_PER_CLASS = 50
SPLIT_SEED = 0

# Bilinear 8x8 -> 32x32: patches of 4x4 then give the model an 8x8 grid, one token per scanned pixel.
IMAGE_SIZE = 32

# Of the 1,797 scans, with ink divided by its maximum of 16.
MEAN = 0.305
STD = 0.376


@dataclass(frozen=True)
class Digits:
    """Images ``(B, 1, 32, 32)``, float32 and normalised, with their labels ``(B,)``, int64 in 0..9."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        size = tuple(self.images.shape)
        if size[1:] != (1, IMAGE_SIZE, IMAGE_SIZE) or tuple(self.labels.shape) != size[:1]:
            raise InputError(
                f"digits need images (B, 1, {IMAGE_SIZE}, {IMAGE_SIZE}) and labels (B,), "
                f"found {size} and {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return self.images.shape[0]

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images ``(size, 1, 32, 32)`` and labels ``(size,)``, the last batch perhaps smaller, in order."""
        order = torch.arange(len(self)) if order is None else order
        for start in range(0, len(order), size):
            positions = order[start : start + size]
            yield self.images[positions], self.labels[positions]


def load_train_digits() -> Digits:
    """
    Load the train part: 1,297 images, classes in turn, so that any prefix is nearly balanced.

    Raises
    ------
    InputError
        If scikit-learn is not installed.
    """
    return _load_part(test=False)


def load_test_digits() -> Digits:
    """
    Load the test part: 500 images, 50 of each class, none of which the packaged model was trained on.

    Raises
    ------
    InputError
        If scikit-learn is not installed.
    """
    return _load_part(test=True)


def load_calibration_digits(count: int = 128) -> Digits:
    """
    Load the first `count` images of the train part, the classes balanced to within one image.

    Raises
    ------
    InputError
        If `count` is not between 1 and the size of the train part, or scikit-learn is not installed.
    """
    train = load_train_digits()
    if not 1 <= count <= len(train):
        raise InputError(f"count must be 1 to {len(train)}, the size of the train part, found {count}")
    return Digits(train.images[:count], train.labels[:count])


def split_digits(labels: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """
    Split positions into a train and a test part, 50 test images per class, always the same way.

    Parameters
    ----------
    labels
        The class of each image, ``(B,)``, 0 to 9.

    Returns
    -------
    tuple of two arrays
        Train and test positions in `labels`, disjoint, each ordered so that the classes take turns.

    Raises
    ------
    InputError
        If a class has 50 images or fewer, so that nothing would be left to train on.
    """
    counts = np.bincount(labels, minlength=CLASSES)
    if counts.min() <= TEST_PER_CLASS:
        raise InputError(
            f"each class needs more than {TEST_PER_CLASS} images, found {counts.min()} of {counts.argmin()}"
        )
    # RandomState's stream is frozen by NumPy (NEP 19); a Generator's or scikit-learn's split may change.
    random = np.random.RandomState(SPLIT_SEED)
    shuffled = [random.permutation(np.flatnonzero(labels == digit)) for digit in range(CLASSES)]
    return (
        _take_turns([positions[TEST_PER_CLASS:] for positions in shuffled]),
        _take_turns([positions[:TEST_PER_CLASS] for positions in shuffled]),
    )


def prepare_scans(scans: Tensor) -> Tensor:
    """
    Normalise and enlarge raw scans.

    Parameters
    ----------
    scans
        Ink per pixel, ``(B, 8, 8)``, 0 (paper) to 16.

    Returns
    -------
    Tensor
        ``(B, 1, 32, 32)`` float32, zero mean and unit variance over the data set before enlarging.

    Raises
    ------
    InputError
        If the scans are not ``(B, 8, 8)``.
    """
    if scans.ndim != 3 or scans.shape[1:] != (8, 8):
        raise InputError(f"scans must be (B, 8, 8), found {tuple(scans.shape)}")
    normalised = (scans.to(torch.float32) / 16 - MEAN) / STD
    return F.interpolate(normalised[:, None], size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False)


def _take_turns(groups: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    turns = np.concatenate([np.arange(len(group)) for group in groups])
    return np.concatenate(groups)[np.argsort(turns, kind="stable")]


def _load_part(*, test: bool) -> Digits:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError("the digits come with scikit-learn, which is missing: pip install scikit-learn") from error
    raw = load_digits()
    labels = np.asarray(raw.target, dtype=np.int64)
    positions = split_digits(labels)[test]
    scans = torch.from_numpy(np.asarray(raw.images, dtype=np.float32)[positions])
    return Digits(prepare_scans(scans), torch.from_numpy(labels[positions]))
