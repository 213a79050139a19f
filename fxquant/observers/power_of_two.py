"""A scale per channel that is a shared one times a power of two (FQ-ViT, section 3.2: power-of-two factor)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fxquant.errors import ConfigError
from fxquant.numerics.arithmetic import dequantize, quantize
from fxquant.numerics.codes import Codes
from fxquant.numerics.granularity import PerChannel
from fxquant.observers.base import ObserverOptions, QParams
from fxquant.observers.minmax import MinMaxObserver

FACTORS = 4  # 1, 2, 4, 8
VALUES = 2**20  # compared at a time, to keep the temporaries small


@dataclass(frozen=True)
class PowerOfTwoFactor(ObserverOptions):
    """
    Each channel has a scale of its own, ``s 2^k`` with k in 0..3, and all channels share s and one zero point.

    A layer norm can then read the codes with shifts alone. ``8 s`` and the zero point are those of the range of all channels
    together. k is the one with the least squared error on the latest batch. For affine unsigned codes with ``PerChannel(-1)``.
    """

    def check(self, spec: Codes) -> None:
        """Raise `ConfigError` for any other kind of codes."""
        if spec.granularity != PerChannel(-1) or spec.signed or spec.symmetric:
            raise ConfigError(
                "PowerOfTwoFactor gives a scale per channel and one zero point: use it with granularity=PerChannel(-1), "
                f"signed=False and symmetric=False, got {spec.granularity}, signed={spec.signed}, symmetric={spec.symmetric}"
            )

    def build(self, spec: Codes, name: str) -> PowerOfTwoFactorObserver:
        """Return a `PowerOfTwoFactorObserver`."""
        return PowerOfTwoFactorObserver(spec, name)


class PowerOfTwoFactorObserver(MinMaxObserver):
    """Keep the running range of each channel and the exponent k, ``(C,)``, that suited the latest batch."""

    exponent: Tensor
    reads_last = True

    def __init__(self, spec: Codes, operand: str) -> None:
        super().__init__(spec, operand)
        self.register_buffer("exponent", torch.zeros(0, dtype=torch.int32))

    def observe(self, rows: Tensor) -> None:
        """Widen the ranges and compare the factors on the batch."""
        super().observe(rows)
        scale, zero_point = self._shared()
        errors = torch.zeros(FACTORS, rows.shape[0], dtype=torch.float64, device=rows.device)
        spec = self.spec
        for values in rows.split(max(1, VALUES // rows.shape[0]), dim=1):
            for k in range(FACTORS):
                own = scale / 2 ** (FACTORS - 1 - k)
                found = dequantize(quantize(values, own, zero_point, spec.qmin, spec.qmax), own, zero_point)
                errors[k] += (found - values).square().sum(1).double()
        self.exponent = errors.argmin(0).to(torch.int32)

    @property
    def summarises(self) -> bool:
        """Whether the ranges alone will do, for all but the last batch."""
        return True

    def initial_qparams(self) -> QParams:
        """Return the scale of each channel, ``(C,)``, and the zero point that all share, repeated for each: ``(C,)`` too."""
        scale, zero_point = self._shared()
        scales = scale / 2 ** (FACTORS - 1) * torch.exp2(self.exponent.float())
        return QParams(scales, zero_point.expand(scales.shape[0]).contiguous(), self.axis)

    def _shared(self) -> tuple[Tensor, Tensor]:
        """Return the largest scale, ``8 s``, and the zero point, both 0-dim."""
        params = self.qparams_for(self.minimum.min().reshape(1), self.maximum.max().reshape(1))
        if params.zero_point is None:
            raise RuntimeError("the options were checked for codes with a zero point")
        return params.scale.reshape(()), params.zero_point.reshape(())
