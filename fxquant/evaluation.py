"""How good a classifier is, and how often two of them agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from fxquant.errors import InputError


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
    model: Callable[[Tensor], Any],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    description: str = "evaluate",
) -> Evaluation:
    """
    Run `model`, which gives logits ``(B, classes)``, on ``(images, labels)`` batches under a progress bar.

    Images are moved to `device` and `dtype` first. Raises `InputError` where there are no images, labels are not classes of
    the model, or logits are not finite.
    """
    predictions: list[Tensor] = []
    hits = torch.zeros(2, dtype=torch.int64)
    classes = 0
    total = len(batches) if isinstance(batches, Sized) else None
    with torch.no_grad():
        for images, labels in tqdm(batches, desc=description, total=total, unit="batch", disable=None, leave=False):
            logits = _logits(
                model(images.to(device=device, dtype=dtype)), labels, f"{description}, batch {len(predictions)}"
            )
            classes = logits.shape[1]
            predictions.append(logits.argmax(dim=1))
            ranked = logits.topk(min(5, classes), dim=1).indices  # (B, 5)
            hits += torch.stack(((predictions[-1] == labels).sum(), (ranked == labels[:, None]).sum()))
    count = sum(map(len, predictions))
    if count == 0:
        raise InputError("expected at least one batch to evaluate on, found none")
    top1, top5 = (100 * n / count for n in hits.tolist())
    return Evaluation(top1, top5 if classes > 5 else None, torch.cat(predictions))


def measure_agreement(one: Evaluation, other: Evaluation) -> float:
    """Return the percentage of images that two evaluations of the same batches gave the same class."""
    if one.count != other.count:
        raise InputError(f"agreement needs evaluations of the same images, found {one.count} and {other.count} of them")
    return 100 * (one.predictions == other.predictions).double().mean().item()


def _logits(output: Any, labels: Tensor, where: str) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 2:
        found = f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"{where}: expected logits (B, classes), the model gave {found}: is it a classifier?")
    logits = output.detach().to("cpu", torch.float32)
    if not logits.isfinite().all():
        raise InputError(f"{where}: logits are not finite; check the weights, or try another dtype")
    if int(labels.max()) >= logits.shape[1]:
        raise InputError(f"{where}: label {int(labels.max())} is not one of the model's {logits.shape[1]} classes")
    return logits
