"""The range that quantises with the least mean squared error: the extremes of the stream, both shrunk by one factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fxquant.errors import ConfigError
from fxquant.numerics.arithmetic import dequantize
from fxquant.numerics.codes import Codes
from fxquant.observers.base import ObserverOptions, QParams, Summary
from fxquant.observers.histogram import Grid
from fxquant.observers.minmax import MinMaxObserver

FACTORS = tuple(1.0 - 0.01 * i for i in range(90))
MIN_BINS = 2**8
MAX_BINS = 2**20  # of all rows together: 16 MiB
BLOCK = 2**16  # bins searched at a time, so that the temporaries stay in the cache


@dataclass(frozen=True)
class OMSE(ObserverOptions):
    """
    The range is the smallest and the largest value ever seen, times the best of the factors 1.00, 0.99 ... 0.11.

    last_batch_only: measure the error on the last batch alone, as published, not on the whole stream. bins: of the
    histogram of one row; fewer where the rows are many.
    """

    last_batch_only: bool = False
    bins: int = 2**14

    def __post_init__(self) -> None:
        if not MIN_BINS <= self.bins <= MAX_BINS:
            raise ConfigError(f"bins must lie in [{MIN_BINS}, {MAX_BINS}], got {self.bins!r}")

    def build(self, spec: Codes, name: str) -> OMSEObserver:
        """Return an `OMSEObserver`."""
        return OMSEObserver(spec, name, self)


class OMSEObserver(MinMaxObserver):
    """
    Keep the running range and a histogram ``(2, G, bins)`` of counts and sums; search the factor when asked (FQ-ViT).

    One search over the histogram replaces 90 passes over the data. `exponent` and `origin`, ``(G,)``, are its `Grid`.
    """

    histogram: Tensor
    exponent: Tensor
    origin: Tensor

    def __init__(self, spec: Codes, operand: str, options: OMSE) -> None:
        super().__init__(spec, operand)
        self.options = options
        self.register_buffer("histogram", torch.zeros(2, 0, 0, dtype=torch.float64))
        self.register_buffer("exponent", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("origin", torch.zeros(0, dtype=torch.int64))

    @property
    def grid(self) -> Grid:
        """The bins of the histogram."""
        return Grid(self.exponent, self.origin, self.histogram.shape[2])

    def summarise(self, rows: Tensor) -> Summary:
        """Return the range of the batch and its histogram ``(2, G, bins)`` over that range."""
        ends = self.checked_aminmax(rows)
        return *ends, self._grid_over(*ends).histogram(rows)

    def absorb(self, *summary: Tensor) -> None:
        """Widen the range; add a batch to the histogram or, for `last_batch_only`, put it in its place."""
        minimum, maximum, histogram = summary
        super().absorb(minimum, maximum)
        grid = self._grid_over(minimum, maximum)
        if self.calibrated and not self.options.last_batch_only:
            own, grid = grid, self._grid_over(*super().range())
            histogram = own.widen(histogram, grid) + self.grid.widen(self.histogram, grid)
        self.histogram, self.exponent, self.origin = histogram, grid.exponent, grid.origin

    def _grid_over(self, minimum: Tensor, maximum: Tensor) -> Grid:
        return Grid.over(minimum, maximum, max(MIN_BINS, min(self.options.bins, MAX_BINS // len(minimum))))

    def range(self) -> tuple[Tensor, Tensor]:
        """Return the running ``(min, max)`` times the factor of the least error; among equals, the largest factor."""
        parts = (self.histogram.transpose(0, 1), self.grid.width, *super().range())
        blocks = zip(*(torch.split(part, max(1, BLOCK // self.grid.bins)) for part in parts), strict=True)
        minimum, maximum = super().range()
        factor = torch.cat([self.best_factor(*block) for block in blocks])
        return minimum * factor, maximum * factor

    def best_factor(self, moments: Tensor, width: Tensor, minimum: Tensor, maximum: Tensor) -> Tensor:
        """Return the best factor ``(G,)`` for rows with ``(G, 2, bins)`` moments, bins of `width` and a range."""
        counts, sums = moments[:, :, moments[:, 0].any(0)].unbind(1)
        counts, means = counts.float(), (sums / counts.clamp(min=1)).float()
        best = torch.ones_like(minimum)
        least = torch.full_like(minimum, torch.inf, dtype=torch.float64)
        for factor in FACTORS:
            error = self.error(counts, means, width, self.qparams_for(minimum * factor, maximum * factor))
            better = error < least
            best, least = best.masked_fill(better, factor), torch.where(better, error, least)
        return best

    def error(self, counts: Tensor, means: Tensor, width: Tensor, qparams: QParams) -> Tensor:
        """
        Return the squared error ``(G,)`` of quantising the values of ``(G, bins)``, up to a constant of the data.

        The mean of a bin stands for its values. Their spread around it adds the same for every range and is left out,
        except where a bin straddles two codes: of values spread evenly over a width w, those that reach up to r across
        the boundary take the nearer code and save ``scale * r^2 / w`` on average. A lone value has no spread. Of codes that
        are not even this is left out too.
        """
        spec, width = cast(Codes, self.spec), width[:, None]
        scale = qparams.scale.reshape(-1, 1)
        zero_point = None if qparams.zero_point is None else qparams.zero_point.reshape(-1, 1)
        codes = spec.quantize(means, scale, zero_point)
        distance = means - dequantize(codes, scale, zero_point)
        if not spec.even:
            return (counts * distance.square()).sum(1, dtype=torch.float64)
        reach = (distance.abs() + (width - scale) / 2).clamp(min=0)
        # Nothing lies beyond the outermost codes.
        reach = reach.masked_fill(torch.where(distance < 0, codes == spec.qmin, codes == spec.qmax), 0)
        saved = reach.square() * (scale / width)
        return (counts * distance.square() - (counts - 1).clamp(min=0) * saved).sum(1, dtype=torch.float64)
