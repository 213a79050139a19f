"""Whether images are prepared as the model expects, and whether its float accuracy is what it should be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fxquant.data.data_config import DataConfig
from fxquant.diagnosis.examined import Examined, pixels
from fxquant.diagnosis.normalisation import IMAGES, BetterNormalisation, better_normalisation, is_other, usual_configs
from fxquant.diagnosis.section import DoctorSection

_DEVIATIONS = 3.0  # of a binomial, below the expected accuracy: by chance about once in 700
_CHANCE = 1.5  # times guessing
_OUTSIDE = 0.05  # of the range of pixels, which is 1: more than interpolation oversteps
_NEAR = 0.05  # how closely darkest and brightest pixel come to 0 and 1 by the normalisation that was used
_FAR = 0.1  # and how far off they are by another


def check_preprocessing(examined: Examined, expected: float | None) -> tuple[DoctorSection, BetterNormalisation | None]:
    """
    Return the section, and the normalisation that is better for the model.

    expected: its top-1 in percent, where that is known.
    """
    name, title = "preprocessing", "Are the images prepared as the model expects?"
    shown = examined.evaluation or examined.calibration
    if examined.made_up or not shown:
        return DoctorSection(name, title, left_out="it needs images: there are none"), None
    images = pixels(shown)
    lines = [] if examined.own else ["the model does not say how its images are prepared: give its data config"]
    accuracy = _accuracy(examined, expected)
    better = _better(examined, images)
    warnings = [*_differences(examined.own, examined.given), *_values(images, examined), *accuracy.warnings]
    warnings += [] if better is None else [str(better)]
    figures = {**accuracy.figures, "better": None if better is None else asdict(better)}
    return DoctorSection(name, title, tuple(warnings), (*lines, *accuracy.lines), figures=figures), better


def _differences(own: DataConfig | None, given: DataConfig | None) -> Iterator[str]:
    """Yield what of the data config of the images is not as the model's own says; the size is compared with the images."""
    if own is None or given is None:
        return
    for name, wanted in asdict(own).items():
        found = getattr(given, name)
        if found != wanted and name != "input_size":
            yield f"images are prepared with {name} {found}, the model's own config says {wanted}"


def _values(images: Tensor | None, examined: Examined) -> Iterator[str]:
    """Yield what the size and the values of prepared images say."""
    config = examined.given
    if images is None or config is None:
        return
    found = tuple(images.shape[1:])
    if found != config.input_size:
        yield f"images are {found}, their config says {config.input_size}"
    if found[0] != config.input_size[0]:
        return
    low, high = _extremes(images, config)
    other = _prepared_by(images, config)
    if low < -_OUTSIDE or high > 1 + _OUTSIDE or other:
        yield (
            f"pixels reach from {low:.2f} to {high:.2f} once mean {config.mean} and std {config.std} are undone, where images "
            f"reach from 0 to 1: they were prepared otherwise{other}"
        )


def _prepared_by(images: Tensor, config: DataConfig) -> str:
    """Return the usual normalisation by which darkest and brightest pixels are 0 and 1, nothing where `config` fits."""
    found = [(_off(images, each), each) for each in usual_configs(config) if is_other(each, config)]
    best, other = min(found, key=lambda pair: pair[0])
    fits = best < _NEAR and _off(images, config) > _FAR
    return f", as with mean {other.mean} and std {other.std}" if fits else ""


def _extremes(images: Tensor, config: DataConfig) -> tuple[float, float]:
    """Return the least and the largest value of all channels with the normalisation undone."""
    low, high = _bounds(images, config)
    return float(low.min()), float(high.max())


def _off(images: Tensor, config: DataConfig) -> float:
    """Return how far the least and the largest value of a channel are from 0 and 1 with the normalisation undone, at most."""
    low, high = _bounds(images, config)
    return float(torch.cat((low.abs(), (high - 1).abs())).max())


def _bounds(images: Tensor, config: DataConfig) -> tuple[Tensor, Tensor]:
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    return images.amin((0, 2, 3)) * std + mean, images.amax((0, 2, 3)) * std + mean


@dataclass(frozen=True)
class _Accuracy:
    warnings: tuple[str, ...]
    lines: tuple[str, ...]
    figures: dict[str, Any]


def _accuracy(examined: Examined, expected: float | None) -> _Accuracy:
    """Return what is to be said of the model's accuracy."""
    if not examined.evaluation:
        return _Accuracy((), ("accuracy left out: there are no evaluation images",), {})
    if examined.labels is None:
        reason = "the evaluation images have no labels of classes that the model gives logits for"
        return _Accuracy((), (f"accuracy left out: {reason}",), {})
    top1, count = examined.score(examined.exact) or 0.0, len(examined.labels)
    said = f"{'quantised' if examined.source is None else 'float'} top-1 is {top1:.1f} % on {count} images"
    figures = {"top1_percent": top1, "images": count, "expected_percent": expected}
    advice = "check preprocessing, the order of the classes and the checkpoint before anything else"
    if expected is not None:
        spread = _DEVIATIONS * math.sqrt(expected * (100 - expected) / count)
        said += f", expected {expected:.1f} % give or take {spread:.1f}"
        low = top1 < expected - spread
        return _Accuracy((f"{said}: {advice}",), (), figures) if low else _Accuracy((), (said,), figures)
    unknown = "no published top-1 of this model and these data is known: give the expected one to compare"
    chance = 100 / examined.classes
    if top1 < _CHANCE * chance:
        return _Accuracy((f"{said}, where guessing gives {chance:.1f} %: {advice}",), (unknown,), figures)
    return _Accuracy((), (said, unknown), figures)


def _better(examined: Examined, images: Tensor | None) -> BetterNormalisation | None:
    config = examined.given
    if images is None or config is None or examined.labels is None or len(images) != len(examined.labels):
        return None
    if images.shape[1] != config.input_size[0] or any(len(each.inputs) > 1 for each in examined.evaluation):
        return None
    step = -(-len(images) // IMAGES)
    size = len(examined.evaluation[0].inputs[0])
    few = zip(images[::step].split(size), examined.labels[::step].split(size), strict=True)
    return better_normalisation(examined.judged, few, config)
