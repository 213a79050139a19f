"""Accuracy on validation images that ranks share."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxquant.distributed import sum_over_ranks
from fxquant.graph.inputs import Batch
from fxquant.measurement.evaluation import evaluate
from fxquant.training.interruption import Interruption


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on `count` images. top1 and top5 are in percent; top5 is None for fewer than six classes."""

    top1: float
    top5: float | None
    count: int

    def __str__(self) -> str:
        return f"top-1 {self.top1:.2f} %" + ("" if self.top5 is None else f", top-5 {self.top5:.2f} %")


def measure_accuracy(
    model: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    description: str,
    interruption: Interruption | None = None,
    progress: bool = True,
) -> Accuracy:
    """
    Evaluate `model` in eval mode on the batches of all ranks together; each rank calls this, and each gets the result.

    Raises what `evaluate` raises, and `Stop` after a request to stop.
    """
    listener = interruption or Interruption()

    @functools.wraps(model.forward)
    def answer(*args: Any, **kwargs: Any) -> Any:
        listener.heed()
        return model(*args, **kwargs)

    training = model.training
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64)  # hits, hits among five, images, images of more than five classes
    if not isinstance(batches, Sized) or len(batches):
        found = evaluate(answer, batches, device=device, description=description, progress=progress)
        five = 0 if found.top5 is None else found.count
        shares = (found.top1 * found.count, (found.top5 or 0.0) * five, found.count, five)
        sums += torch.tensor(shares, dtype=torch.float64)
    model.train(training)
    one, top, count, five = sum_over_ranks(sums.to(device)).tolist()
    return Accuracy(one / count, top / five if five else None, int(count))
