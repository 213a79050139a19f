"""What a graph calls while it is trained, and not after: batch norms that follow the batches, paths that are dropped."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.distributed import sum_over_ranks, world_size

# What a graph hands to `BatchNorm`, in order, by the names that `torch.nn.functional.batch_norm` has for it.
BATCH_NORM_OPERANDS = ("input", "running_mean", "running_var", "weight", "bias")


class BatchNorm(nn.Module):
    """
    A batch norm that learns its statistics in training mode.

    It holds no tensors: the graph has the statistics as buffers, weight and bias as parameters, and hands them over.
    """

    def __init__(self, momentum: float, eps: float) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps

    def forward(
        self, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """
        Normalise `x` ``(B, C, ...)``; in training mode, by the batch, which moves `mean` and `variance` ``(C,)``.

        In a process group the batches of all ranks are one, and every rank calls this.
        """
        if self.training and world_size() > 1:
            return self._normalise_together(x, mean, variance, weight, bias)
        return F.batch_norm(x, mean, variance, weight, bias, self.training, self.momentum, self.eps)

    def _normalise_together(
        self, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            count, batch_mean, batch_variance = _joint_statistics(x.float())
            with torch.no_grad():
                mean.lerp_(batch_mean, self.momentum)
                variance.lerp_(batch_variance * (count / (count - 1)), self.momentum)
            factor = (batch_variance + self.eps).rsqrt()
            factor = factor if weight is None else factor * weight
            shape = (-1, *[1] * (x.dim() - 2))
            normal = (x.float() - batch_mean.view(shape)) * factor.view(shape)
            return (normal if bias is None else normal + bias.view(shape)).to(x.dtype)


class DropPath(nn.Module):
    """
    Set a branch to zero for whole images, drawn at random, in training mode (stochastic depth, Huang et al. 2016).

    The other images are multiplied by ``1 / (1 - drop_prob)``, so that the expected value stays.

    It draws what timm's module of this name draws, without timm's two seconds of imports. drop_prob: in [0, 1).
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` ``(B, ...)``, in training mode with some of the B entries zero and the others larger."""
        if not self.training or self.drop_prob == 0:
            return x
        keep = 1 - self.drop_prob
        return x * x.new_empty((x.shape[0], *[1] * (x.dim() - 1))).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """Show the rate when the module is printed."""
        return f"drop_prob={self.drop_prob:.3f}"


def _joint_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return count, mean ``(C,)`` and biased variance ``(C,)`` of the values of `x` ``(B, C, ...)`` on all ranks."""
    variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
    mean, variance = mean.double(), variance.double()  # so that the squares below do not cancel out
    count = x.numel() / x.shape[1]
    sums: Tensor = _Sum.apply(torch.stack((torch.ones_like(mean), mean, variance + mean.square())) * count)
    joint, square = sums[1] / sums[0], sums[2] / sums[0]
    return sums[0, 0].detach(), joint.float(), (square - joint.square()).clamp(min=0).float()


class _Sum(torch.autograd.Function):
    """The sum over ranks; a value adds to what every rank makes of it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return sum_over_ranks(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return sum_over_ranks(gradients[0])


TRAIN_MODULES = (BatchNorm, DropPath)
