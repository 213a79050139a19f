"""Twin-uniform operands: what follows softmax or GELU, in two ranges of `bits - 1` bits each (PTQ4ViT, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fxquant.errors import ConfigError
from fxquant.granularity import PerTensor

if TYPE_CHECKING:
    from fxquant.observers.twin import TwinGELUObserver, TwinSoftmaxObserver


@dataclass(frozen=True)
class _Twin:
    bits: int = 8
    power_of_two: bool = False
    published: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 2 <= self.bits <= 8:
            raise ConfigError(f"bits must be an integer from 2 to 8, got {self.bits!r}")
        for name in ("power_of_two", "published"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{type(self).__name__}.{name} must be True or False, got {getattr(self, name)!r}")

    @property
    def dtype(self) -> str:
        """Name of the codes, for people."""
        return f"twin{self.bits}"

    @property
    def granularity(self) -> PerTensor:
        """Both scales hold for the whole tensor."""
        return PerTensor()

    @property
    def qmax(self) -> int:
        """Largest code of the high range."""
        return int(2 ** (self.bits - 1)) - 1

    @property
    def qmin(self) -> int:
        """Smallest code: the largest of the low range, negated."""
        return -self.qmax


@dataclass(frozen=True)
class TwinGELU(_Twin):
    """
    How the output of GELU is quantised: negative values, down to GELU's minimum, have a scale of their own.

    bits: 2..8. power_of_two: the positive scale is the negative one times a power of two. published: the negative range has
    one code more, ``-2^(b-1)``, as in the published code; the layout that the paper documents has no room for it.
    """

    @property
    def qmin(self) -> int:
        """Code of GELU's minimum."""
        return -self.qmax - self.published

    def build(self, name: str) -> TwinGELUObserver:
        """Return a fresh observer; `name` is the operand it will be named by in errors."""
        from fxquant.observers.twin import TwinGELUObserver

        return TwinGELUObserver(self, name)


@dataclass(frozen=True)
class TwinSoftmax(_Twin):
    """
    How the output of softmax is quantised: probabilities below a split ``t`` have a finer scale.

    bits: 2..8. power_of_two: t is a power of two, else a power of its square root. published: the values of the two ranges
    are added, as in the published code; this form exists only simulated.
    """

    power_of_two: bool = True

    def build(self, name: str) -> TwinSoftmaxObserver:
        """Return a fresh observer; `name` is the operand it will be named by in errors."""
        from fxquant.observers.twin import TwinSoftmaxObserver

        return TwinSoftmaxObserver(self, name)


Twin = TwinGELU | TwinSoftmax
