"""Shrink the scales of a weight's rows to the least squared error."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

FACTORS = tuple(1 - 0.01 * i for i in range(60))
CACHED = 2**17  # weights that stay in the cache while all factors are tried


def clip_rows(weight: Tensor, scale: Tensor, second: Tensor, to_grid: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """
    Return `scale`, ``(O, 1)``, times the factor of `FACTORS` for which rounding costs each row of `weight`, ``(O, K)``, least.

    The squared errors of a row are weighed by the diagonal of the second moments of the input, ``(K, K)``. to_grid: rounds a
    weight to the grid of a scale.
    """
    columns = max(1, CACHED // len(weight))
    costs = weight.new_zeros(len(FACTORS), len(weight))
    for part, weights in zip(weight.split(columns, dim=1), second.diagonal().split(columns), strict=True):
        values = part.contiguous()
        for cost, factor in zip(costs, FACTORS, strict=True):
            cost.addmv_((to_grid(values, scale * factor) - values).square(), weights)
    return scale * scale.new_tensor(FACTORS)[costs.argmin(0)][:, None]
