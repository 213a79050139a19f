"""What every spec of an operand answers, however it is quantised."""

from __future__ import annotations

from fxquant.numerics.granularity import Granularity
from fxquant.observers.base import Observer


class OperandSpec:
    """
    How one operand is quantised; each kind is a frozen dataclass, and `fxquant.config.kinds` has the table of all kinds.

    The passes and calibration ask a spec what they have to know, and never which kind it is.
    """

    int8_products = False  # whether a product of such codes was asked to run on int8, where its operands allow it
    integer_softmax = False  # whether the softmax that gives the operand is computed on the codes of its scores

    @property
    def dtype(self) -> str:
        """Name of the codes, for people."""
        raise NotImplementedError

    @property
    def granularity(self) -> Granularity:
        """Over which values a scale is shared."""
        raise NotImplementedError

    @property
    def qmin(self) -> int:
        """Smallest code."""
        raise NotImplementedError

    @property
    def qmax(self) -> int:
        """Largest code."""
        raise NotImplementedError

    @property
    def has_codes(self) -> bool:
        """Whether values become integer codes, rather than floats that nothing but their value is known of."""
        return True

    @property
    def trained(self) -> bool:
        """Whether the quantiser is trained with the model."""
        return False

    @property
    def learns_step(self) -> bool:
        """Whether its scale is trained with the model."""
        return False

    def build(self, name: str) -> Observer:
        """Return a fresh observer; `name` is the operand it will be named by in errors."""
        raise NotImplementedError
