"""Whether a trained model was meant for images of another normalisation than it is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fxquant.data.batches import ImageBatches
from fxquant.data.data_config import DataConfig
from fxquant.graph.inputs import moved
from fxquant.precision.logits import logits_of
from fxquant.precision.run_outputs import first_float

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std
IMAGES = 200  # that are looked at, at most
# Mean and std by which models are published: of ImageNet, of Inception and most SigLIP, of CLIP, and none.
USUAL: tuple[Normalisation, ...] = (
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ((0.5,), (0.5,)),
    ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ((0.0,), (1.0,)),
)
_GAIN = 0.05  # of the images that another normalisation has to put right
_DEVIATIONS = 3  # of what chance would do to as many images as the two differ on


@dataclass(frozen=True)
class BetterNormalisation:
    """A normalisation with which the float model is clearly better: top-1 in percent with it and as given, on `images`."""

    given: DataConfig
    better: DataConfig
    given_top1: float
    better_top1: float
    images: int

    def __str__(self) -> str:
        given, better = self.given, self.better
        mean, std = (" ".join(map(str, values)) for values in (better.mean, better.std))
        return (
            f"float top-1 is {self.given_top1:.1f} % with mean {given.mean} and std {given.std}, and {self.better_top1:.1f} % "
            f"with mean {better.mean} and std {better.std}, on {self.images} images: if the model was trained so, pass "
            f"--mean {mean} --std {std}"
        )


def spread(evaluation: ImageBatches) -> ImageBatches:
    """Return batches of at most `IMAGES` of the images, spread over all."""
    samples = evaluation.samples
    step = -(-len(samples) // IMAGES)
    return ImageBatches(
        samples.take(range(0, len(samples), step)), evaluation.config, evaluation.batch_size, evaluation.workers,
        unreadable=evaluation.unreadable,
    )  # fmt: skip


def better_normalisation(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], config: DataConfig
) -> BetterNormalisation | None:
    """
    Return the normalisation with which a classifier is clearly better on these images and labels; None for none.

    batches: ``(B, C, H, W)``, prepared by `config`, and ``(B,)``. Tried are the usual normalisations, and that of the images'
    own mean and standard deviation.
    """
    mean, std = _columns(config)
    taken = [(images.cpu().float() * std + mean, labels.cpu()) for images, labels in batches]
    pixels, labels = [images for images, _ in taken], torch.cat([labels for _, labels in taken])
    given = _right(model, pixels, labels, config)
    count = len(labels)
    found = []
    for other in _others(config, _own(pixels)):
        right = _right(model, pixels, labels, other)
        gain, differ = int(right.sum()) - int(given.sum()), int((right != given).sum())
        if gain > max(_GAIN * count, _DEVIATIONS * differ**0.5):
            found.append((int(right.sum()), other))
    if not found:
        return None
    best, other = max(found, key=lambda pair: pair[0])
    return BetterNormalisation(config, other, 100 * int(given.sum()) / count, 100 * best / count, count)


def usual_configs(config: DataConfig) -> Iterator[DataConfig]:
    """Yield `config` with each of the usual normalisations, those of three channels averaged where it has another number."""
    yield from (_normalised(config, each) for each in USUAL)


def is_other(one: DataConfig, other: DataConfig) -> bool:
    """Say whether the normalisations of two configs differ by more than rounding."""
    pairs = zip((*one.mean, *one.std), (*other.mean, *other.std), strict=True)
    return any(abs(a - b) > 0.01 for a, b in pairs)


def _own(pixels: Sequence[Tensor]) -> Normalisation:
    """Return mean and standard deviation of the pixels, which people take who train from scratch."""
    values = torch.cat(list(pixels)).transpose(0, 1).flatten(1)  # (C, all)
    mean, std = ([round(value, 3) for value in found.tolist()] for found in (values.mean(1), values.std(1)))
    return tuple(mean), tuple(max(value, 0.001) for value in std)


def _others(config: DataConfig, own: Normalisation) -> Iterator[DataConfig]:
    for other in (*usual_configs(config), _normalised(config, own)):
        if is_other(other, config):
            yield other


def _normalised(config: DataConfig, normalisation: Normalisation) -> DataConfig:
    channels = config.input_size[0]
    mean, std = (v if len(v) in (1, channels) else (sum(v) / len(v),) for v in normalisation)
    return config.changed({"mean": mean, "std": std})


def _right(model: nn.Module, pixels: Sequence[Tensor], labels: Tensor, config: DataConfig) -> Tensor:
    """Return for each image whether the model gives its class with the normalisation of `config`."""
    mean, std = _columns(config)
    like = first_float(model)
    predicted = []
    with torch.no_grad():
        for images in pixels:
            output = model(moved((images - mean) / std, like.device, like.dtype))
            predicted.append(logits_of(output, "another normalisation").argmax(1))
    return torch.cat(predicted) == labels


def _columns(config: DataConfig) -> tuple[Tensor, Tensor]:
    return torch.tensor(config.mean).view(-1, 1, 1), torch.tensor(config.std).view(-1, 1, 1)
