"""Probabilities as powers of two: the specs of such codes, and their observer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fxquant.errors import CalibrationError, ConfigError
from fxquant.numerics.arithmetic import LARGEST_STEP, dequantize_log2, quantize_log2
from fxquant.numerics.granularity import PerTensor
from fxquant.observers.base import QParams, Summary
from fxquant.observers.minmax import MinMaxObserver
from fxquant.observers.operand_spec import OperandSpec

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
class Log2(OperandSpec):
    """
    How the output of softmax is quantised: to powers of two.

    A probability p becomes ``2^-q`` with ``q = round(-log2 p)``, and 0 where q exceeds ``2^b - 1``. bits: b, 2..7. A product
    with powers of two is made of shifts, for which there is no int8 kernel: it runs on float values.
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
        return Log2Observer(self, name)


@dataclass(frozen=True)
class LogIntSoftmax(Log2):
    """
    As `Log2`, with the softmax itself computed on integers (FQ-ViT, section 3.3; I-BERT's polynomial for the exponential).

    It reads the codes of the scores, so that they have to be quantised: see `Placement.scores`.
    """

    integer_softmax = True


class Log2Observer(MinMaxObserver):
    """Check that it sees probabilities; there is no scale to find."""

    spec: Log2

    @property
    def integer_softmax(self) -> bool:  # type: ignore[override]
        """Whether the softmax that gives the operand is computed on the codes of its scores."""
        return self.spec.integer_softmax

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
