"""Second moments of what a product reads, summed up batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class Moments:
    """
    The sums over T rows that closed forms are made of: x is what the quantised product reads, f what the float one does.

    rows: T. sum_x, sum_f: ``(K,)`` float64. xx: x^T x, ``(K, K)`` of the dtype of x. fx: f^T x, ``(K, K)``, None where it is
    not needed.
    """

    rows: int
    sum_x: Tensor
    sum_f: Tensor
    xx: Tensor
    fx: Tensor | None

    @classmethod
    def of(cls, x: Tensor, f: Tensor, compares: bool) -> Moments:
        """Return the moments of one batch: rows `x` and `f`, ``(T, K)``; compares: whether fx is needed."""
        sums = (x.sum(0, dtype=torch.float64), f.sum(0, dtype=torch.float64))
        return cls(len(x), *sums, x.T @ x, f.T @ x if compares else None)

    def add(self, x: Tensor, f: Tensor) -> None:
        """Add the rows `x` and `f` of another batch."""
        self.rows += len(x)
        self.sum_x += x.sum(0, dtype=torch.float64)
        self.sum_f += f.sum(0, dtype=torch.float64)
        self.xx.addmm_(x.T, x)
        if self.fx is not None:
            self.fx.addmm_(f.T, x)

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of the rows of both."""
        cross = None if self.fx is None or other.fx is None else self.fx + other.fx
        sums = (self.sum_x + other.sum_x, self.sum_f + other.sum_f)
        return Moments(self.rows + other.rows, *sums, self.xx + other.xx, cross)

    @property
    def mean_x(self) -> Tensor:
        """The mean of x, ``(K,)`` float64."""
        return self.sum_x / self.rows

    @property
    def mean_f(self) -> Tensor:
        """The mean of f, ``(K,)`` float64."""
        return self.sum_f / self.rows

    def second(self, centred: bool) -> Tensor:
        """Return the mean of x^T x, ``(K, K)``, about the mean of x where `centred`."""
        return self._mean(self.xx, self.mean_x, centred)

    def cross(self, centred: bool) -> Tensor:
        """Return the mean of f^T x, ``(K, K)``, about the means of both where `centred`."""
        if self.fx is None:
            raise RuntimeError("these moments do not compare")
        return self._mean(self.fx, self.mean_f, centred)

    def _mean(self, products: Tensor, mean: Tensor, centred: bool) -> Tensor:
        found, dtype = products / self.rows, products.dtype
        return found.addr_(mean.to(dtype), self.mean_x.to(dtype), alpha=-1) if centred else found


def total(parts: Sequence[Moments]) -> Moments:
    """Return the moments of the rows of all `parts`, of which there is at least one."""
    first, *others = parts
    for other in others:
        first = first + other
    return first


MOST_DAMPING = 1e6


def factor_damped(second: Tensor, damping: float) -> Tensor:
    """
    Return the lower Cholesky factor of second moments ``(K, K)`` under `damping`, or under the next power of ten that has one.

    Moments about the mean of a few rows that hardly differ are rounding errors, and may be negative in some direction. Raises
    ``LinAlgError`` where no damping helps, as for what is not finite.
    """
    found = torch.linalg.cholesky_ex(damped(second, damping))
    while found.info:
        if damping > MOST_DAMPING:
            raise torch.linalg.LinAlgError("second moments have no Cholesky factor")  # type: ignore[attr-defined]
        damping *= 10
        found = torch.linalg.cholesky_ex(damped(second, damping))
    factor: Tensor = found.L
    return factor


def damped(second: Tensor, damping: float) -> Tensor:
    """
    Return second moments ``(K, K)`` with `damping` times their mean added to each channel's own, so that they have an inverse.

    A dead channel, one that is always zero, gets 1 and so moves no other.
    """
    own = second.diagonal()
    dead = own <= 0
    mean = own[~dead].mean() if bool((~dead).any()) else own.new_ones(())
    found = second.clone()
    found.diagonal().add_(torch.where(dead, 1.0, damping * mean))
    return found
