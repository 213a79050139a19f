"""What observes an operand whose scales are computed at run time."""

from __future__ import annotations

from torch import Tensor

from fxquant.observers.base import Observer, QParams, Summary


class PerTokenObserver(Observer):
    """Keep nothing of the values ``(..., C)`` but that there were any: each row has a scale of its own, whatever was seen."""

    def summarise(self, rows: Tensor) -> Summary:
        """Refuse NaN and infinity, as any observer does."""
        self.checked_aminmax(rows)
        return ()

    def absorb(self, *summary: Tensor) -> None:
        """Keep nothing."""

    def initial_qparams(self) -> QParams:
        """Return no scale, ``(0,)``: there is none before the values are there."""
        return QParams(self.batches.new_zeros(0).float(), None, None)
