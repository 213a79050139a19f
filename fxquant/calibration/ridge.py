"""ERQ's ridge regression: move float weights so that they undo the error of the quantised input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxquant.calibration.moments import Moments, factor_damped, total


def fit_ridge(weight: Tensor, halves: Sequence[Moments], penalties: Sequence[float]) -> Tensor:
    """
    Return `weight`, ``(O, K)``, moved by ridge regression of ``W f`` on x, about their means (ERQ, Section 3.2).

    halves: the moments of two halves of the images. penalties: of several, the one that leaves the least error on each half
    when it is fitted to the other, or none where the error is least without; a single one is used as it is.
    """
    penalty: float | None = penalties[0]
    if len(penalties) > 1:
        penalty = _best([Regression.of(weight, half) for half in halves], penalties)
    return weight if penalty is None else weight + Regression.of(weight, total(halves)).change(penalty)


@dataclass(frozen=True, eq=False)
class Regression:
    """
    Of ``W (f - x)`` on x, about their means.

    rows: T. second: H, the mean of x^T x, ``(K, K)``. cross: the mean of ``W (f - x)`` times x^T, ``(O, K)``.
    """

    rows: int
    second: Tensor
    cross: Tensor

    @classmethod
    def of(cls, weight: Tensor, moments: Moments) -> Regression:
        """Return the regression for the rows of `weight`, ``(O, K)``."""
        second = moments.second(centred=True)
        return cls(moments.rows, second, weight @ (moments.cross(centred=True) - second))

    def change(self, penalty: float) -> Tensor:
        """Return the change of the weight, ``(O, K)``: ``cross (H + penalty mean(H_ii) I)^-1``."""
        return torch.cholesky_solve(self.cross.T, factor_damped(self.second, penalty)).T

    def change_of_error(self, change: Tensor) -> float:
        """Return by how much the summed squared error of the output changes where the weight is moved by `change`."""
        return self.rows * float((change * (change @ self.second - 2 * self.cross)).sum())


def _best(halves: Sequence[Regression], penalties: Sequence[float]) -> float | None:
    best, least = None, 0.0
    for penalty in penalties:
        pairs = ((halves[0], halves[1]), (halves[1], halves[0]))
        gain = sum(held_out.change_of_error(fitted.change(penalty)) for fitted, held_out in pairs)
        if gain < least:
            best, least = penalty, gain
    return best
