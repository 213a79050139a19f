"""ERQ's ridge regression: move float weights so that they undo the error of the quantised input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fxquant.calibration.moments import Moments, damped, total


def fit_ridge(weight: Tensor, halves: Sequence[Moments], penalties: Sequence[float]) -> Tensor:
    """
    Return `weight`, ``(O, K)`` float64, moved by ridge regression of ``W f`` on x, about their means (ERQ, Section 3.2).

    halves: the moments of two halves of the images. penalties: of several, the one that leaves the least error on each half
    when it is fitted to the other, or none where the error is least without; a single one is used as it is.
    """
    penalty = penalties[0] if len(penalties) == 1 else _best(weight, halves, penalties)
    return weight if penalty is None else weight + ridge(weight, total(halves), penalty)


def ridge(weight: Tensor, moments: Moments, penalty: float) -> Tensor:
    """Return the change of `weight`, ``(O, K)``, for one penalty: ``W C (H + penalty mean(H_ii) I)^-1``, C of f - x with x."""
    second = moments.second(centred=True)
    error = moments.cross(centred=True) - second
    change: Tensor = torch.linalg.solve(damped(second, penalty), (weight @ error).T).T
    return change


def _best(weight: Tensor, halves: Sequence[Moments], penalties: Sequence[float]) -> float | None:
    best, least = None, 0.0
    for penalty in penalties:
        pairs = ((halves[0], halves[1]), (halves[1], halves[0]))
        gain = sum(_change_of_error(weight, ridge(weight, fitted, penalty), held_out) for fitted, held_out in pairs)
        if gain < least:
            best, least = penalty, gain
    return best


def _change_of_error(weight: Tensor, change: Tensor, moments: Moments) -> float:
    """Return by how much the summed squared error of the output changes where `weight` is moved."""
    second = moments.second(centred=True)
    error = moments.cross(centred=True) - second
    return moments.rows * float((change * (change @ second - 2 * weight @ error)).sum())
