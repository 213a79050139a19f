"""The observer of probabilities that become powers of two."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.errors import CalibrationError
from fxquant.log2 import Log2
from fxquant.numerics import dequantize_log2, quantize_log2
from fxquant.observers.base import QParams, Summary
from fxquant.observers.minmax import MinMaxObserver


class Log2Observer(MinMaxObserver):
    """Check that it sees probabilities; there is no scale to find."""

    spec: Log2  # type: ignore[assignment]

    def __init__(self, spec: Log2, operand: str) -> None:
        super().__init__(spec, operand)  # type: ignore[arg-type]

    def summarise(self, rows: Tensor) -> Summary:
        """Return the range of the batch, which must be that of probabilities."""
        minimum, maximum = self.checked_aminmax(rows)
        least, most = float(minimum.min()), float(maximum.max())
        if least < 0 or most > 1 + 1e-3:
            raise CalibrationError(
                f"{self._where()}: expected probabilities, found values from {least:g} to {most:g}; quantise this operand by "
                "a TensorSpec"
            )
        return minimum, maximum

    def initial_qparams(self) -> QParams:
        """Return the scale 1: codes are exponents."""
        return QParams(torch.ones((), device=self.minimum.device), None, None)

    def fake_quantize(self, x: Tensor, qparams: QParams) -> Tensor:
        """Return `x` as it will be after `convert`, float32."""
        return dequantize_log2(quantize_log2(x, self.spec.qmax))
