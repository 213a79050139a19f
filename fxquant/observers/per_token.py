"""What observes an operand whose scales are computed at run time."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from fxquant.numerics.arithmetic import dequantize, quantize_tokens
from fxquant.numerics.codes import Codes
from fxquant.observers.base import Observer, QParams, Summary


class PerTokenObserver(Observer):
    """Keep nothing of the values ``(..., C)`` but that there were any: each row has a scale of its own, whatever was seen."""

    at_run_time = True

    def summarise(self, rows: Tensor) -> Summary:
        """Refuse NaN and infinity, as any observer does."""
        self.checked_aminmax(rows)
        return ()

    def absorb(self, *summary: Tensor) -> None:
        """Keep nothing."""

    def initial_qparams(self) -> QParams:
        """Return no scale, ``(0,)``: there is none before the values are there."""
        return QParams(self.batches.new_zeros(0).float(), None, None)

    def fake_quantize(self, x: Tensor, qparams: QParams) -> Tensor:
        """Return `x` ``(..., C)`` as it will be after `convert`, float32, by the range of each row."""
        spec = cast(Codes, self.spec)
        codes, scale, zero_point = quantize_tokens(x, spec.symmetric, spec.qmin, spec.qmax)
        return dequantize(codes, scale[..., None], zero_point[..., None])
