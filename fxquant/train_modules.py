"""What a graph calls while it is trained, and not after: batch norms that follow the batches, paths that are dropped."""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn


class BatchNorm(nn.Module):
    """A batch norm that learns its statistics in training mode; they and its parameters belong to the graph."""

    def __init__(self, momentum: float, eps: float) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps

    def forward(
        self, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Normalise `x` ``(B, C, ...)``; in training mode, by the batch, which moves `mean` and `variance` ``(C,)``."""
        return F.batch_norm(x, mean, variance, weight, bias, self.training, self.momentum, self.eps)


TRAIN_MODULES = (BatchNorm, DropPath)
