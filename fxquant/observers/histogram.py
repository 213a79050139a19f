"""
Moment histogram of a stream: how many values fell into each bin, and their sum.

Bins are as wide as a power of two, their edges are its multiples, and both follow from the range seen so far. So the
bins of a wider range are unions of those of a narrower one, widening is exact, and the histogram of a stream depends
neither on the order of its batches nor on how it was cut into them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Values binned at a time, so that the temporaries stay in the cache.
CHUNK = 2**16


@dataclass(frozen=True)
class Grid:
    """Bins of ``(G,)`` rows: bin `i` of a row holds ``[(origin + i) * 2^exponent, (origin + i + 1) * 2^exponent)``."""

    exponent: Tensor
    origin: Tensor
    bins: int

    @classmethod
    def over(cls, minimum: Tensor, maximum: Tensor, bins: int) -> Grid:
        """Return the finest grid that holds float32 ``[min, max]``, ``(G,)`` each, however its edges fall."""
        minimum, maximum = minimum.double(), maximum.double()
        # A constant row has no extent; take the distance from one float of its size to the next.
        spacing = torch.maximum(minimum.abs(), maximum.abs()) * 2.0**-24
        extent = torch.maximum(maximum - minimum, spacing).clamp(min=2.0**-100)
        exponent = torch.frexp(extent / (bins - 1)).exponent
        origin = (minimum * power_of_two(-exponent)).floor().to(torch.int64)
        return cls(exponent, origin, bins)

    @property
    def width(self) -> Tensor:
        """Width ``(G,)`` of the bins of each row."""
        return power_of_two(self.exponent)

    def histogram(self, rows: Tensor) -> Tensor:
        """Return the counts and sums ``(2, G, bins)``, in float64, of ``(G, n)`` values that lie inside the grid."""
        groups = rows.shape[0]
        totals = torch.zeros(2, groups * self.bins, dtype=torch.float64, device=rows.device)
        one = torch.ones((), dtype=torch.float64, device=rows.device)
        first = (torch.arange(groups, device=rows.device) * self.bins)[:, None]
        factor, origin = power_of_two(-self.exponent)[:, None], self.origin[:, None]
        for values in torch.split(rows, max(1, CHUNK // groups), dim=1):
            values = values.float()
            # Exact in float32: the factor is a power of two, and floor leaves integers less than `bins` apart.
            index = (values * factor).floor_().sub_(origin).to(torch.int64).add_(first).flatten()
            totals[0].scatter_add_(0, index, one.expand_as(index))
            totals[1].scatter_add_(0, index, values.double().flatten())
        return totals.view(2, groups, self.bins)

    def widen(self, histogram: Tensor, to: Grid) -> Tensor:
        """Return a histogram over this grid as one over the grid `to`, which must hold all its values."""
        index = torch.arange(self.bins, device=histogram.device) + self.origin[:, None]
        # A shift rounds down, below zero too. Only empty bins can land outside the new grid.
        index = (index >> (to.exponent - self.exponent).clamp(max=62)[:, None]) - to.origin[:, None]
        index = index.clamp(0, to.bins - 1).expand_as(histogram)
        return torch.zeros_like(histogram).scatter_add_(2, index, histogram)


def power_of_two(exponent: Tensor) -> Tensor:
    """Return ``2^exponent`` in float32 for int32 exponents in [-126, 127]."""
    # Written as bits, because exp2 and ldexp may round on some devices.
    return ((exponent + 127) << 23).view(torch.float32)
