"""Shrink the scales of a weight's rows to the least squared error."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

FACTORS = tuple(1 - 0.01 * i for i in range(60))


def clip_rows(weight: Tensor, scale: Tensor, second: Tensor, to_grid: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """
    Return `scale`, ``(O, 1)``, times the factor of `FACTORS` for which rounding costs each row of `weight`, ``(O, K)``, least.

    The squared errors of a row are weighed by the diagonal of the second moments of the input, ``(K, K)``. to_grid: rounds a
    weight to the grid of a scale.
    """
    weights = second.diagonal()
    least = torch.full_like(scale, torch.inf)
    best = scale
    for factor in FACTORS:
        cost = ((to_grid(weight, scale * factor) - weight).square() @ weights)[:, None]
        best = torch.where(cost < least, scale * factor, best)
        least = torch.minimum(cost, least)
    return best
