"""Moving average of two quantiles of each batch, so that rare outliers do not set the range."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from fxquant.errors import ConfigError
from fxquant.numerics.codes import Codes
from fxquant.observers.base import ObserverOptions
from fxquant.observers.ema import EMAObserver, check_sigma


@dataclass(frozen=True)
class Percentile(ObserverOptions):
    """The range of a batch is its quantiles ``1 - alpha`` and `alpha`, in (0.5, 1]; `sigma` averages as in `EMA`."""

    alpha: float = 0.99999
    sigma: float = 0.01

    def __post_init__(self) -> None:
        if not 0.5 < self.alpha <= 1:
            raise ConfigError(f"alpha must lie in (0.5, 1], got {self.alpha!r}")
        check_sigma(self.sigma)

    def build(self, spec: Codes, name: str) -> PercentileObserver:
        """Return a `PercentileObserver`."""
        return PercentileObserver(spec, name, self.sigma, self.alpha)


class PercentileObserver(EMAObserver):
    """Average the quantiles ``1 - alpha`` and ``alpha`` of the batches, ``(G,)`` each (FQ-ViT)."""

    def __init__(self, spec: Codes, operand: str, sigma: float, alpha: float) -> None:
        super().__init__(spec, operand, sigma)
        self.alpha = alpha

    def batch_range(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return both quantiles of every row of a batch ``(G, n)``."""
        self.checked_aminmax(rows)
        return tail_quantile(rows, self.alpha, largest=False), tail_quantile(rows, self.alpha, largest=True)


def tail_quantile(rows: Tensor, alpha: float, largest: bool) -> Tensor:
    """
    Return the quantile `alpha` (`largest`) or ``1 - alpha`` of each row of ``(G, n)``.

    It is interpolated linearly between two order statistics, as in ``torch.quantile``. Both are exact, and the rank is
    a Python float: in float32 it is off by whole elements for rows longer than 2^24.
    """
    rank = (1 - alpha) * (rows.shape[1] - 1)
    first, second = int(rank) + 1, min(int(rank) + 2, rows.shape[1])
    rows = narrow(rows, second, largest)
    if largest:
        first, second = rows.shape[1] + 1 - first, rows.shape[1] + 1 - second
    outer, inner = rows.kthvalue(first, dim=1).values, rows.kthvalue(second, dim=1).values
    return torch.lerp(outer.float(), inner.float(), rank - int(rank))


def narrow(rows: Tensor, k: int, largest: bool) -> Tensor:
    """
    Return a small part ``(G, m)`` of ``(G, n)`` that holds the `k` most extreme values of each row.

    A tournament: cut a row into more than `k` blocks and keep the `k` whose best values are the most extreme. Those
    best values alone are `k` values that nothing in the other blocks goes beyond.
    """
    groups, n = rows.shape
    height = isqrt(n // k)
    if height < 2:
        return rows
    width = n // height
    # The blocks are the columns: reducing down them runs along memory, whatever the height.
    blocks = rows[:, : height * width].view(groups, height, width)
    best = blocks.amax(1) if largest else blocks.amin(1)
    chosen = best.topk(k, dim=1, largest=largest, sorted=False).indices
    kept = blocks.gather(2, chosen[:, None, :].expand(groups, height, k)).flatten(1)
    return torch.cat([kept, rows[:, height * width :]], dim=1)
