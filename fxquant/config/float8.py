"""How one operand of a linear layer or a convolution is quantised to float8 codes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fxquant.config.operands import TensorSpec
from fxquant.errors import ConfigError
from fxquant.numerics import float8
from fxquant.observers.base import ObserverOptions
from fxquant.observers.ema import EMA
from fxquant.observers.minmax import MinMax
from fxquant.observers.omse import OMSE
from fxquant.observers.percentile import Percentile

OBSERVERS = (ObserverOptions, MinMax, EMA, Percentile, OMSE)


@dataclass(frozen=True)
class Float8(TensorSpec):
    """
    Codes of the format e4m3, whose scale puts the end of the range that the observer finds on 448, the largest code.

    Of a `TensorSpec` it has granularity and observer to choose: codes have 8 bits and a sign, and zero is one of them. Both
    operands of a product have to be of this kind to be multiplied as they are. The observer is one that finds a range:
    ``MinMax``, ``EMA``, ``Percentile`` or ``OMSE``.

    Raises `ConfigError` for anything else.
    """

    signed: bool = True
    symmetric: bool = True
    even = False

    def __post_init__(self) -> None:
        if (self.bits, self.signed, self.symmetric, self.narrow) != (8, True, True, False):
            raise ConfigError(
                "Float8 expected 8 bits, signed=True, symmetric=True and narrow=False, which e4m3 codes have, got "
                f"{self.bits} bits, signed={self.signed}, symmetric={self.symmetric}, narrow={self.narrow}: use a TensorSpec"
            )
        if type(self.observer) not in OBSERVERS:
            expected = ", ".join(f"{each.__name__}()" for each in OBSERVERS[1:])
            raise ConfigError(f"Float8 expected an observer that finds a range, {expected}, got {self.observer!r}")
        super().__post_init__()

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return -float8.LARGEST

    @property
    def qmax(self) -> int:
        """Largest code."""
        return float8.LARGEST

    @property
    def dtype(self) -> str:
        """Name of the codes, for people."""
        return "e4m3"

    def quantize(self, x: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None = None) -> Tensor:
        """Return the codes of `x` as float32; zero_point: None, or zeros."""
        return float8.quantize_float8(x, scale, axis).float()
