"""Logarithmic codes for probabilities: powers of two, as FQ-ViT quantises attention maps (Lin et al., IJCAI 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from fxquant.errors import ConfigError
from fxquant.granularity import PerTensor
from fxquant.numerics import LARGEST_STEP

if TYPE_CHECKING:
    from fxquant.observers.log2 import Log2Observer

MAX_BITS = 7  # an int8 holds the exponents 0..127, and -1 for zero


def refuse_coarse(scale: Tensor, operand: str) -> None:
    """Raise `ConfigError` where scores are quantised too coarsely for the integer softmax that gives `operand`."""
    largest = float(scale.max())
    if largest > LARGEST_STEP:
        raise ConfigError(
            f"node {operand!r}: the scores have a scale of {largest:.3g}, and LogIntSoftmax needs one of at most "
            f"{LARGEST_STEP:.3g}: use more bits for activations, or Log2"
        )


@dataclass(frozen=True)
class Log2:
    """
    How the output of softmax is quantised: ``2^-q``, ``q = round(-log2 p)`` in ``[0, 2^b - 1]``, and 0 beyond.

    bits: 2..7. Products of such codes are shifts, for which there is no int8 kernel: they run on float values.
    """

    bits: int = 4

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 2 <= self.bits <= MAX_BITS:
            raise ConfigError(f"{type(self).__name__}.bits must be an integer from 2 to {MAX_BITS}, got {self.bits!r}")

    @property
    def dtype(self) -> str:
        """Name of the codes, for people."""
        return f"log{self.bits}"

    @property
    def granularity(self) -> PerTensor:
        """There is no scale: 1 is the largest probability."""
        return PerTensor()

    @property
    def qmin(self) -> int:
        """The smallest code, which stands for 0."""
        return -1

    @property
    def qmax(self) -> int:
        """The largest exponent."""
        return int(2**self.bits) - 1

    def build(self, name: str) -> Log2Observer:
        """Return a fresh observer; `name` is the operand it will be named by in errors."""
        from fxquant.observers.log2 import Log2Observer

        return Log2Observer(self, name)


@dataclass(frozen=True)
class LogIntSoftmax(Log2):
    """
    As `Log2`, with the softmax itself computed on integers (FQ-ViT, section 3.3; I-BERT's polynomial for the exponential).

    It reads the codes of the scores, so that they have to be quantised: see `Placement.scores`.
    """
