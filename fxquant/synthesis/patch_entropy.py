"""Patch-similarity entropy of attention outputs, and its gradient, without keeping all similarities in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS = 64  # of similarities computed at once
_OFFSET = 1e-4  # added to densities before their logarithm
_REACH = 8.0  # bandwidths beyond which a kernel is nothing beside the offset, in float32
_FAR = 1e3


def patch_entropy(
    context: Tensor, images: int, prefix: int = 0, *, bandwidth: float = 0.01, grid_size: int = 10
) -> Tensor:
    """
    Return the entropy of the distribution of similarities between patches, a scalar: the mean over images.

    context: attention probabilities times values, ``(G, H, N, D)`` with ``G = images x windows``. Axes between the heads
    and the tokens count as windows too, and ``(G, N, D)`` is one head.
    images: the number of images in `context`.
    prefix: the number of leading tokens to drop.

    The heads are averaged first. The samples of an image are the cosine similarities of all pairs of its tokens, each token
    with itself included. Their density is that of a Gaussian kernel with `bandwidth` h, at `grid_size` points from the
    smallest to the largest sample of the batch. The points count as constants for the gradient. The entropy is the integral
    of ``-p ln p`` by the trapezoid rule, where p is the density plus 1e-4.

    This is the patch-similarity entropy of PSAQ-ViT (Li et al., ECCV 2022). Each pair is visited once, in the upper
    triangle, and the gradient is the analytic one of this definition.
    """
    tokens = context.float()
    tokens = tokens.mean(1) if tokens.dim() > 3 else tokens
    tokens = tokens.flatten(0, -3)[:, prefix:]
    units = F.normalize(tokens, dim=-1, eps=1e-8)
    return _Entropy.apply(units, images, bandwidth, grid_size)  # type: ignore[no-any-return]


class _Entropy(torch.autograd.Function):
    """The entropy of unit vectors ``(G, N, D)``. Similarities are computed once per direction and never kept."""

    @staticmethod
    def forward(ctx: Any, units: Tensor, images: int, bandwidth: float, grid_size: int) -> Tensor:
        low, high = _extremes(units)
        grid = _Grid.between(low, high, grid_size, bandwidth)
        sums = units.new_zeros(images, len(grid.padded))
        for _, similarity, weight in _blocks(units):
            for index, distance in grid.near(similarity.view(images, -1)):
                kernel = _kernel(distance, bandwidth).view_as(similarity).mul_(weight).view_as(distance)
                if isinstance(index, int):
                    sums[:, index] += kernel.sum(1)
                else:
                    sums += torch.zeros_like(sums).scatter_add_(1, index, kernel)
        samples = units.shape[0] // images * units.shape[1] ** 2
        factor = 1 / (samples * math.sqrt(2 * math.pi * bandwidth**2))
        density = sums * factor + _OFFSET
        # d entropy / d density, with all constant factors of d density / d similarity.
        slopes = (density.log() + 1) * grid.quadrature * (factor / (images * bandwidth**2))
        ctx.grid, ctx.bandwidth = grid, bandwidth
        ctx.save_for_backward(units, slopes)
        return -(density * density.log() * grid.quadrature).sum(1).mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        units, slopes = ctx.saved_tensors
        slopes = slopes * gradients[0]
        result = torch.zeros_like(units)
        for rows, similarity, weight in _blocks(units):
            samples = similarity.view(len(slopes), -1)
            slope = torch.zeros_like(samples)
            for index, distance in ctx.grid.near(samples):
                factor = slopes[:, index, None] if isinstance(index, int) else slopes.gather(1, index)
                slope.addcmul_(_kernel(distance, ctx.bandwidth).mul_(distance), factor)
            matrix = slope.view_as(similarity).mul_(weight)
            result[:, rows] += matrix @ units[:, rows.start :]
            result[:, rows.start :] += matrix.mT @ units[:, rows]
        return result, None, None, None


@dataclass(frozen=True, eq=False)
class _Grid:
    """
    The points at which a density is wanted. On a CPU there are `reach` more on both sides, so that indices stay in range.

    padded: all points. The added ones lie so far away that the kernel of no sample reaches them.
    quadrature: the weights of the trapezoid rule, 0 for the added points.
    reach: the number of consecutive points that are near a sample.
    """

    padded: Tensor
    quadrature: Tensor
    reach: int
    low: float
    step: float

    @classmethod
    def between(cls, low: Tensor, high: Tensor, size: int, bandwidth: float) -> _Grid:
        points = torch.linspace(0, 1, size, device=low.device) * (high - low) + low
        steps = points.diff()
        quadrature = 0.5 * (F.pad(steps, (0, 1)) + F.pad(steps, (1, 0)))
        if points.device.type != "cpu":  # sums by index are slower there, and never twice the same
            return cls(points, quadrature, size, 0.0, 0.0)
        step = (float(high) - float(low)) / (size - 1)
        reach = math.ceil(2 * _REACH * bandwidth / step) if step * size > 2 * _REACH * bandwidth else size
        margin = (0, 0) if reach >= size else (reach, reach)
        padded = F.pad(points, margin, value=_FAR)
        return cls(padded, F.pad(quadrature, margin), min(reach, size), float(low), step)

    def near(self, samples: Tensor) -> Iterator[tuple[Tensor | int, Tensor]]:
        """
        Yield the indices of points near samples ``(B, M)``, one for all or one each, and the distances to these points.
        """
        if self.reach == len(self.padded):
            for index in range(self.reach):
                yield index, samples - self.padded[index]
            return
        # Of the padded points; positive, so that this is the floor.
        first = ((samples - self.low) / self.step).add_(self.reach / 2 + 1).long()
        for offset in range(self.reach):
            nearby = first + offset if offset else first
            yield nearby, samples - self.padded.index_select(0, nearby.view(-1)).view_as(samples)


def _extremes(units: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest similarity of the batch."""
    found = [similarity.aminmax() for _, similarity, _ in _blocks(units)]
    return torch.stack([f.min for f in found]).min(), torch.stack([f.max for f in found]).max()


def _blocks(units: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """
    Yield rows, their similarities ``(G, R, M)`` to themselves and to all later tokens, and how often each pair counts.

    A pair within the rows appears in both orders, any other pair in one.
    """
    for start in range(0, units.shape[1], _ROWS):
        rows = slice(start, min(start + _ROWS, units.shape[1]))
        weight = units.new_full((units.shape[1] - start,), 2.0)
        weight[: rows.stop - start] = 1.0
        yield rows, units[:, rows] @ units[:, start:].mT, weight


def _kernel(distance: Tensor, bandwidth: float) -> Tensor:
    """Return the Gaussian kernel without its constant factor."""
    return distance.square().mul_(-0.5 / bandwidth**2).exp_()
