"""What is measured of a model's outputs, where that is more than how far they are from the float model's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fxquant.errors import ConfigError, InputError

Metric = Callable[[Any, Any], float]


def top1(outputs: Tensor, targets: Any) -> float:
    """
    Return the percentage of logits ``(B, classes)`` whose largest is that of the label ``(B,)``.

    Raises `InputError` where `targets` are no such labels, and for a model of several outputs.
    """
    _refuse_several("top1", outputs)
    if not isinstance(targets, Tensor) or targets.shape != outputs.shape[:1] or targets.is_floating_point():
        found = f"a tensor {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise InputError(
            f"top1 expected labels ({len(outputs)},) next to the images, as in (images, labels) batches, found {found}"
        )
    return 100 * (outputs.argmax(dim=-1) == targets).double().mean().item()


def cosine(outputs: Tensor, targets: Tensor) -> float:
    """
    Return the mean cosine of embeddings ``(..., C)`` with `targets`, those of the float model, from -1 to 1.

    Raises `InputError` for a model of several outputs.
    """
    _refuse_several("cosine", outputs)
    return float(F.cosine_similarity(outputs.double(), targets.double(), dim=-1).mean())


def _refuse_several(metric: str, outputs: object) -> None:
    if not isinstance(outputs, Tensor):
        found = f"{len(outputs)} of them" if isinstance(outputs, tuple) else type(outputs).__name__
        raise InputError(
            f"{metric} expected a model that returns one tensor, found {found}: wrap the model in a module that "
            "returns the one that counts, or give a function of (outputs, targets) as the metric"
        )


@dataclass(frozen=True)
class TaskMetric:
    """
    A figure of a task, larger where the model is better, from what it gives for all images together.

    function: called with the outputs and the targets. against_float: whether the targets are what the float model gives.
    """

    function: Metric
    name: str
    against_float: bool = False

    def __call__(self, outputs: Any, exact: Any, targets: Any) -> float:
        """Return the figure of `outputs`; exact: those of the float model."""
        return float(self.function(outputs, exact if self.against_float else targets))


def task_metric(metric: Metric | str | None) -> TaskMetric | None:
    """
    Return the metric that `metric` means: "top1", "cosine", or a function of outputs and targets; None for None.

    Raises `ConfigError` for anything else.
    """
    if metric is None:
        return None
    if metric == "top1" or metric is top1:
        return TaskMetric(top1, "top1")
    if metric == "cosine" or metric is cosine:
        return TaskMetric(cosine, "cosine", against_float=True)
    if not callable(metric):
        raise ConfigError(f"metric must be 'top1', 'cosine' or a function of (outputs, targets), got {metric!r}")
    return TaskMetric(metric, getattr(metric, "__name__", "metric"))
