"""How good a classifier is, and how often two of them agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxquant.distributed import interleave, rank, resolve_device, together, world_size
from fxquant.errors import InputError, expect_callable, expect_iterable
from fxquant.graph.inputs import Arguments, Batch, Bound, moved
from fxquant.precision.logits import logits_of
from fxquant.progress import track


@dataclass(frozen=True, eq=False)
class Evaluation:
    """
    What a model said to each of `count` images.

    top1, top5: percent of images whose label is the largest, or among the five largest, logits; top5 is None below six
    classes, where it says nothing. predictions: the class of each image, ``(B,)`` int64 on the CPU.
    """

    top1: float
    top5: float | None
    predictions: Tensor

    @property
    def count(self) -> int:
        """Number of images."""
        return self.predictions.numel()


def evaluate(
    model: Callable[..., Any],
    batches: Iterable[Batch],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    description: str = "evaluate",
    shared: bool = False,
    progress: bool = True,
) -> Evaluation:
    """
    Run `model`, which gives logits ``(B, classes)``, on ``(images, labels)`` batches.

    A batch may be of another form in which labels stand next to the inputs: see `fxquant.graph.inputs.Arguments`. Logits may
    be the only tensor of what the model returns, or what it calls ``logits``. Inputs are moved to `device` and `dtype` first.
    shared: every rank of a process group calls this with its own share of the batches (`fxquant.distributed.shard`), and all
    return the evaluation of all images, in order. progress: whether to show how far it has come.

    Raises `InputError` where there are no images, labels are not classes of the model, or logits are not finite.
    """
    expect_callable(model, "a model")
    expect_iterable(batches, "an iterable of batches")
    place = resolve_device(device)
    arguments = Arguments.of(model)

    def count_hits() -> _Hits:
        # The number of a batch among all: every `step`-th is of this rank.
        start, step = (rank(), world_size()) if shared else (0, 1)
        found = _Hits([], torch.zeros(2, dtype=torch.int64))
        with torch.no_grad():
            for batch in track(batches, description, "batch", shown=progress, leave=False):
                where = f"{description}, batch {start + step * len(found.predictions)}"
                bound, labels = _read(arguments, batch, where)
                args, kwargs = arguments.call(moved(bound, place, dtype))
                found.add(_labelled(logits_of(model(*args, **kwargs), where), labels, where), labels)
        return found

    return _merge(together(count_hits) if shared else [count_hits()])


@dataclass(eq=False)
class _Hits:
    """What a part of the batches gave: the class of each image, and how many were right in one and in five."""

    predictions: list[Tensor]
    hits: Tensor
    classes: int = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count one more batch, ``(B, classes)`` and ``(B,)``."""
        self.classes = logits.shape[1]
        predictions = logits.argmax(dim=1)
        ranked = logits.topk(min(5, self.classes), dim=1).indices  # (B, 5)
        self.hits += torch.stack(((predictions == labels).sum(), (ranked == labels[:, None]).sum()))
        self.predictions.append(predictions)


def _merge(parts: list[_Hits]) -> Evaluation:
    predictions = interleave([part.predictions for part in parts])
    count = sum(map(len, predictions))
    if count == 0:
        raise InputError("expected at least one batch to evaluate on, found none")
    top1, top5 = (100 * n / count for n in torch.stack([part.hits for part in parts]).sum(0).tolist())
    classes = max(part.classes for part in parts)
    return Evaluation(top1, top5 if classes > 5 else None, torch.cat(predictions))


def measure_agreement(one: Evaluation, other: Evaluation) -> float:
    """Return the percentage of images that two evaluations of the same batches gave the same class."""
    if one.count != other.count:
        raise InputError(f"agreement needs evaluations of the same images, found {one.count} and {other.count} of them")
    return 100 * (one.predictions == other.predictions).double().mean().item()


def _read(arguments: Arguments, batch: Batch, where: str) -> tuple[Bound, Tensor]:
    try:
        bound, labels = arguments.split(batch)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
        found = (
            f"a tensor {tuple(labels.shape)} of {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        )
        raise InputError(f"{where}: expected labels (B,) of classes next to the images, found {found}")
    return bound, labels.cpu()


def _labelled(logits: Tensor, labels: Tensor, where: str) -> Tensor:
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high >= logits.shape[1]:
        wrong = low if low < 0 else high
        raise InputError(f"{where}: label {wrong} is not one of the model's {logits.shape[1]} classes")
    return logits
