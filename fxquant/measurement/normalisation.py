"""Whether a trained model was meant for images of another normalisation than it is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fxquant.data.batches import ImageBatches
from fxquant.data.data_config import DataConfig
from fxquant.graph.inputs import moved
from fxquant.measurement.evaluation import logits_of
from fxquant.measurement.experiment import Task

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std
IMAGES = 200  # that are looked at, at most
# Mean and std by which models are published: of ImageNet, of Inception and most SigLIP, of CLIP, and none.
_USUAL: tuple[Normalisation, ...] = (
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ((0.5,), (0.5,)),
    ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ((0.0,), (1.0,)),
)
_GAIN = 0.05  # of the images that another normalisation has to put right
_DEVIATIONS = 3  # of what chance would do to as many images as the two differ on


@dataclass(frozen=True, eq=False)
class _Sample:
    images: list[Tensor]  # of pixels from 0 to 1
    labels: Tensor


def better_normalisation(task: Task, evaluation: ImageBatches) -> str | None:
    """
    Return a sentence that names the normalisation with which the task's float model is clearly better; None for none.

    At most `IMAGES` of the images are looked at, spread over all, by each of the usual normalisations and by that of their own
    mean and standard deviation.
    """
    config = evaluation.config
    sample = _draw(evaluation)
    given = _hits(task, sample, config)
    found = []
    for other in _others(config, _own(sample)):
        hits = _hits(task, sample, other)
        gain, differ = int(hits.sum()) - int(given.sum()), int((hits != given).sum())
        if gain > max(_GAIN * len(given), _DEVIATIONS * differ**0.5):
            found.append((int(hits.sum()), other))
    if not found:
        return None
    best, other = max(found, key=lambda pair: pair[0])
    mean, std = (" ".join(map(str, values)) for values in (other.mean, other.std))
    return (
        f"float top-1 is {100 * int(given.sum()) / len(given):.1f} % with mean {config.mean} and std {config.std}, and "
        f"{100 * best / len(given):.1f} % with mean {other.mean} and std {other.std}, on {len(given)} images: if the model was "
        f"trained so, pass --mean {mean} --std {std}"
    )


def _draw(evaluation: ImageBatches) -> _Sample:
    samples = evaluation.samples
    step = -(-len(samples) // IMAGES)
    drawn = ImageBatches(
        samples.take(range(0, len(samples), step)), evaluation.config, evaluation.batch_size, evaluation.workers,
        unreadable=evaluation.unreadable,
    )  # fmt: skip
    mean, std = _columns(evaluation.config)
    batches = [(images * std + mean, labels) for images, labels in drawn]
    return _Sample([images for images, _ in batches], torch.cat([labels for _, labels in batches]))


def _own(sample: _Sample) -> Normalisation:
    """Return mean and standard deviation of the pixels, which people take who train from scratch."""
    pixels = torch.cat(sample.images).transpose(0, 1).flatten(1)  # (C, all)
    mean, std = ([round(value, 3) for value in values.tolist()] for values in (pixels.mean(1), pixels.std(1)))
    return tuple(mean), tuple(max(value, 0.001) for value in std)


def _others(config: DataConfig, own: Normalisation) -> Iterator[DataConfig]:
    channels = config.input_size[0]
    for mean, std in (*_USUAL, own):
        values = [v if len(v) in (1, channels) else (sum(v) / len(v),) for v in (mean, std)]
        other = config.changed({"mean": values[0], "std": values[1]})
        pairs = zip((*other.mean, *other.std), (*config.mean, *config.std), strict=True)
        if any(abs(a - b) > 0.01 for a, b in pairs):
            yield other


def _hits(task: Task, sample: _Sample, config: DataConfig) -> Tensor:
    """Return for each image whether the model gives its class with the normalisation of `config`."""
    mean, std = _columns(config)
    predicted = []
    with torch.no_grad():
        for images in sample.images:
            output = task.model(moved((images - mean) / std, task.device, task.dtype))
            predicted.append(logits_of(output, "another normalisation").argmax(1))
    return torch.cat(predicted) == sample.labels


def _columns(config: DataConfig) -> tuple[Tensor, Tensor]:
    return torch.tensor(config.mean).view(-1, 1, 1), torch.tensor(config.std).view(-1, 1, 1)
