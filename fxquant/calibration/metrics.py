"""How far the output of a quantised product is from the float one, for the metrics that no quadratic form covers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fxquant.config.search import Metric


def elementwise_loss(metric: Metric, y: Tensor, approximation: Tensor, gradient: Tensor | None) -> Tensor:
    """
    Return the loss of each element of the output, of any shape (PTQ4ViT's code; section 3.3 of the paper for the Hessian).

    gradient is that of the task's loss at `y`; only `Metric.HESSIAN` reads it.
    """
    error = y - approximation
    if metric is Metric.L1:
        return error.abs()
    if metric is Metric.LINEAR_WEIGHTED_L2:
        return y.abs() * error.square()
    if metric is Metric.SQUARE_WEIGHTED_L2:
        return (y * error).square()
    if metric is Metric.HESSIAN:
        if gradient is None:
            raise RuntimeError("the Hessian metric needs the gradient of the loss")
        return (gradient * error).square()
    return error.square()


def is_directional(metric: Metric) -> bool:
    """Say whether a metric compares directions of vectors and not elements."""
    return metric in (Metric.COSINE, Metric.PEARSON)


def directional_loss(metric: Metric, y: Tensor, approximation: Tensor, dim: int) -> Tensor:
    """Return ``-cos(y, approximation)`` along `dim`, which goes away; Pearson's removes the means first."""
    if metric is Metric.PEARSON:
        y, approximation = y - y.mean(dim, keepdim=True), approximation - approximation.mean(dim, keepdim=True)
    return -F.cosine_similarity(y, approximation, dim=dim)
