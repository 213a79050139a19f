"""ERQ's rounding: half of the columns at a time, with a local search within the half."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fxquant.calibration.moments import damped

STEPS = 100  # of the search within a half


Round = Callable[[Tensor], Tensor]  # weights (O, n) to the nearest values of their rows' grids
Beside = Callable[
    [Tensor, Tensor], Tensor
]  # values (O, n) of a grid to those next to them, upwards where the bools say so


def erq_round(weight: Tensor, second: Tensor, to_grid: Round, beside: Beside, damping: float) -> Tensor:
    """
    Return `weight`, ``(O, K)``, rounded so that the output changes little (ERQ, ICML 2024, Section 3.3).

    The first half of the columns that are left is rounded and refined, and the columns after it make up for its error by ridge
    regression, until none are left. second: the mean of x^T x, ``(K, K)``.
    """
    weight = weight.clone()
    start, columns = 0, weight.shape[1]
    while start < columns:
        end = start + max(1, (columns - start) // 2)
        half, rest = slice(start, end), slice(end, columns)
        rounded = refine(weight[:, half], second[half, half], to_grid, beside)
        if end < columns:
            error = (rounded - weight[:, half]) @ second[half, rest]
            weight[:, rest] -= torch.linalg.solve(damped(second[rest, rest], damping), error.T).T
        weight[:, half] = rounded
        start = end
    return weight


def refine(weight: Tensor, second: Tensor, to_grid: Round, beside: Beside) -> Tensor:
    """
    Return `weight`, ``(O, n)``, rounded to nearest, then one weight of each row at a time the other way.

    The error d of a row costs ``d second d^T``. A step takes the weight whose error has the sign of the slope ``2 d second``
    and the largest slope, and keeps the other way of rounding it where the cost does not rise.
    """
    nearest = to_grid(weight)
    other = beside(nearest, nearest <= weight)
    errors = torch.stack([nearest - weight, other - weight])
    chosen, rows = torch.zeros_like(weight, dtype=torch.int64), torch.arange(len(weight), device=weight.device)
    going = torch.ones_like(rows, dtype=torch.bool)
    for _ in range(STEPS):
        error = errors.gather(0, chosen[None])[0]
        slope = 2 * error @ second
        eligible = (slope.sign() == error.sign()) & (errors[0] != errors[1])
        size = torch.where(eligible, slope.abs(), -1.0)
        column = size.argmax(1)
        turned = errors[1 - chosen[rows, column], rows, column] - error[rows, column]
        cost = turned * (slope[rows, column] + turned * second.diagonal()[column])
        going &= (size[rows, column] >= 0) & (cost <= 0)
        if not bool(going.any()):
            break
        chosen[rows[going], column[going]] = 1 - chosen[rows[going], column[going]]
    return errors.gather(0, chosen[None])[0] + weight
