"""What the codes of one quantised tensor are."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from fxquant.numerics import arithmetic
from fxquant.numerics.arithmetic import code_range
from fxquant.numerics.granularity import Granularity, PerTensor


@dataclass(frozen=True)
class Codes:
    """
    Integer codes of 2 to 8 bits, as observers see them: how many there are, and what shares a scale.

    signed: codes ``[-2^(b-1), 2^(b-1) - 1]`` rather than ``[0, 2^b - 1]``. symmetric: the zero point is 0. narrow: signed codes
    go without the smallest, as in ``[-127, 127]``. `fxquant.TensorSpec` adds the observer that finds the range.
    """

    bits: int = 8
    signed: bool = False
    symmetric: bool = False
    granularity: Granularity = PerTensor()
    narrow: bool = field(default=False, kw_only=True)
    even = True  # whether all neighbouring codes are one apart

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return code_range(self.bits, self.signed)[0] + self.narrow

    @property
    def qmax(self) -> int:
        """Largest code."""
        return code_range(self.bits, self.signed)[1]

    @property
    def dtype(self) -> str:
        """Name of the codes, for people."""
        return f"{'int' if self.signed else 'uint'}{self.bits}"

    def quantize(self, x: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None = None) -> Tensor:
        """Return the codes of `x` as float32: see `fxquant.numerics.arithmetic.quantize`."""
        return arithmetic.quantize(x, scale, zero_point, self.qmin, self.qmax, axis)
