"""How close the output of an engine is to that of the float model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from fxquant.errors import InputError

# Signal to noise; 14 dB is a relative error of 0.2. Eight bits on random weights give 25 to 35 dB.
LEAST_SQNR = 14.0


@dataclass(frozen=True)
class Agreement:
    """
    How close an output is to that of the float model.

    relative_error: the norm of the difference over the norm of the float output; infinite where values are not finite.
    """

    relative_error: float

    @property
    def sqnr(self) -> float:
        """Signal-to-quantisation-noise ratio in dB; infinite for equal outputs."""
        return -20 * math.log10(self.relative_error) if self.relative_error else math.inf

    def objection(self) -> str | None:
        """Return why the outputs do not agree, or None where they do."""
        if self.sqnr >= LEAST_SQNR:
            return None
        return f"does not agree with float32: SQNR {self.sqnr:.1f} dB, at least {LEAST_SQNR:.0f} expected"


def compare_outputs(output: Tensor, reference: Tensor) -> Agreement:
    """Compare two outputs of one shape, float32 on the CPU; raise `InputError` where the shapes differ."""
    if output.shape != reference.shape:
        raise InputError(f"expected an output of shape {tuple(reference.shape)}, found {tuple(output.shape)}")
    error = float((output.double() - reference.double()).norm() / reference.double().norm())
    return Agreement(error if math.isfinite(error) else math.inf)
