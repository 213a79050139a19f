"""Operands with two scales, the outputs of GELU and of softmax (PTQ4ViT's twin-uniform codes): specs and observers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fxquant.errors import CalibrationError, ConfigError
from fxquant.numerics.arithmetic import EPS, GELU_MINIMUM, dequantize_twin, fake_quantize_summed_twin, quantize_twin
from fxquant.numerics.granularity import PerTensor
from fxquant.observers.base import Summary
from fxquant.observers.minmax import MinMaxObserver
from fxquant.observers.operand_spec import OperandSpec


@dataclass(frozen=True)
class _Twin(OperandSpec):
    bits: int = 8
    power_of_two: bool = False
    published: bool = False
    int8_products = True

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
    one code more, ``-2^(b-1)``, as in the published code; the layout that the paper documents has no room for it. minimum: the
    least value of the function; `prepare` puts that of SiLU, say, in its place where it finds one.
    """

    minimum: float = GELU_MINIMUM

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.minimum, float) or not -math.inf < self.minimum < 0:
            raise ConfigError(f"TwinGELU.minimum must be a negative number, got {self.minimum!r}")

    @property
    def qmin(self) -> int:
        """Code of GELU's minimum."""
        return -self.qmax - self.published

    def build(self, name: str) -> TwinGELUObserver:
        """Return a fresh observer; `name` is the operand it will be named by in errors."""
        return TwinGELUObserver(self, name)


@dataclass(frozen=True)
class TwinSoftmax(_Twin):
    """
    How the output of softmax is quantised: probabilities below a split ``t`` have a finer scale.

    bits: 2..8. power_of_two: t is a power of two, else a power of the square root of two. published: the values of the two
    ranges are added, as in the published code; this form exists only simulated.
    """

    power_of_two: bool = True

    @property
    def has_codes(self) -> bool:
        """Whether values become integer codes; the published sum of two of them does not."""
        return not self.published

    def build(self, name: str) -> TwinSoftmaxObserver:
        """Return a fresh observer; `name` is the operand it will be named by in errors."""
        return TwinSoftmaxObserver(self, name)


Twin = TwinGELU | TwinSoftmax


SPLITS = 20  # 2^0 .. 2^-19
SAMPLE = 2**17  # values of a batch by which splits are compared


@dataclass(frozen=True)
class TwinQParams:
    """The two scales and where they meet, all 0-dim float32: see `fxquant.numerics.arithmetic.quantize_twin`."""

    high: Tensor
    low: Tensor
    split: Tensor

    @property
    def axis(self) -> None:
        """Both scales hold for the whole tensor."""
        return None


class TwinObserver(MinMaxObserver):
    """What both kinds share: `found_scale` holds the high scale, the low one and the split."""

    spec: Twin

    def calculate_qparams(self) -> TwinQParams:  # type: ignore[override]
        """Return the scales and the split that a search found, else those for the statistics so far."""
        return cast(TwinQParams, super().calculate_qparams())

    def refine(self, qparams: TwinQParams) -> None:  # type: ignore[override]
        """Let `calculate_qparams` return these from now on."""
        self.found_scale = torch.stack([qparams.high, qparams.low, qparams.split])

    def found_qparams(self) -> TwinQParams:  # type: ignore[override]
        """Return what `refine` was given."""
        return TwinQParams(*self.found_scale.unbind())

    def operator_arguments(self) -> dict[str, Tensor | int]:
        """Return the scales, the split and the ends of the codes."""
        found = self.calculate_qparams()
        return {
            **{"high": found.high, "low": found.low, "split": found.split},
            **{"qmin": self.spec.qmin, "qmax": self.spec.qmax},
        }

    def candidate(self, initial: TwinQParams, multipliers: Tensor, index: Tensor) -> TwinQParams:  # type: ignore[override]
        """Return the quantisation with number `index`, 0-dim, of those that a search chooses from."""
        raise NotImplementedError

    def step(self, qparams: TwinQParams) -> Tensor:  # type: ignore[override]
        """Return the high scale, 0-dim: the unit in which a noisy bias is searched."""
        return qparams.high

    def fake_quantize(self, x: Tensor, qparams: TwinQParams) -> Tensor:  # type: ignore[override]
        """Return `x` as it will be after `convert`, float32."""
        codes = quantize_twin(x, qparams.high, qparams.low, qparams.split, self.spec.qmin, self.spec.qmax)
        return dequantize_twin(codes, qparams.high, qparams.low)


class TwinGELUObserver(TwinObserver):
    """Keep the largest value; the negative range is that of the function itself."""

    spec: TwinGELU

    def initial_qparams(self) -> TwinQParams:  # type: ignore[override]
        """
        Return the scale of values above zero, ``max / (2^(b-1) - 0.5)``, and that of values below.

        The latter is ``-minimum / (2^(b-1) - 1)``, and ``-minimum / 2^(b-1)`` for a `published` spec.
        """
        return self.scaled(1.0)

    def candidate(self, initial: TwinQParams, multipliers: Tensor, index: Tensor) -> TwinQParams:  # type: ignore[override]
        """Return the initial quantisation with the high scale times a multiplier."""
        return self.scaled(float(multipliers[index]))

    def scaled(self, factor: float) -> TwinQParams:
        """Return the initial quantisation with the high scale times `factor`."""
        low = torch.full_like(self.maximum[0], self.spec.minimum / self.spec.qmin)
        high = (self.maximum[0].clamp(min=EPS) / (self.spec.qmax + 0.5) * factor).clamp(min=EPS)
        if self.spec.power_of_two:
            high = low * torch.exp2(torch.log2(high / low).round())
        return TwinQParams(high, low, torch.zeros_like(high))


class TwinSoftmaxObserver(TwinObserver):
    """Keep the squared error of each split, ``(splits,)``, over an even sample of each batch."""

    spec: TwinSoftmax
    errors: Tensor
    searched_whole = True

    def __init__(self, spec: TwinSoftmax, operand: str) -> None:
        super().__init__(spec, operand)
        self.register_buffer("errors", torch.zeros(0, dtype=torch.float64))

    def summarise(self, rows: Tensor) -> Summary:
        """Return the range of the batch, which must be that of probabilities, and the errors ``(splits,)``."""
        minimum, maximum = self.checked_aminmax(rows)
        if float(minimum.min()) < 0 or float(maximum.max()) > 1 + 1e-3:
            raise CalibrationError(
                f"{self._where()}: expected probabilities, found values from {float(minimum.min()):g} to "
                f"{float(maximum.max()):g}; quantise this operand by a TensorSpec"
            )
        sample = rows.flatten()[:: max(1, rows.numel() // SAMPLE)]
        return minimum, maximum, torch.stack([self._error(sample, split) for split in self.splits(rows.device)])

    def absorb(self, *summary: Tensor) -> None:
        """Widen the range and add the errors of a batch."""
        *ends, errors = summary
        self.errors = errors + self.errors if self.calibrated else errors
        super().absorb(*ends)

    def splits(self, device: torch.device) -> Tensor:
        """Return the candidates, ``(splits,)``: 2^0, 2^-1 .. 2^-19; with power_of_two off 2^0, 2^-0.5, 2^-1 .. 2^-19.5."""
        step = 1.0 if self.spec.power_of_two else 0.5
        return torch.exp2(-step * torch.arange(int(SPLITS / step), dtype=torch.float32, device=device))

    def initial_qparams(self) -> TwinQParams:  # type: ignore[override]
        """Return the split with the least squared error."""
        return self.at_split(self.splits(self.errors.device)[self.errors.argmin()])

    @property
    def searched_alone(self) -> bool:  # type: ignore[override]
        """Whether a search leaves the other operand float, as the published code does."""
        return self.spec.published

    def candidates(self, multipliers: Tensor) -> int:
        """Return how many splits there are, whatever the `multipliers`."""
        return int(self.splits(multipliers.device).numel())

    def candidate(self, initial: TwinQParams, multipliers: Tensor, index: Tensor) -> TwinQParams:  # type: ignore[override]
        """Return the quantisation with the split of number `index`."""
        return self.at_split(self.splits(multipliers.device)[index])

    def at_split(self, split: Tensor) -> TwinQParams:
        """Return the quantisation with the ranges ``[0, split)`` and ``[split, 1]``."""
        high = torch.full_like(split, 1.0 / self.spec.qmax)
        return TwinQParams(high, -split / self.spec.qmax, split)

    def fake_quantize(self, x: Tensor, qparams: TwinQParams) -> Tensor:  # type: ignore[override]
        """Return `x` as it will be after `convert`, float32."""
        if self.spec.published:
            return fake_quantize_summed_twin(x, qparams.split, self.spec.qmax)
        return super().fake_quantize(x, qparams)

    def _error(self, sample: Tensor, split: Tensor) -> Tensor:
        approximation = self.fake_quantize(sample, self.at_split(split))
        return (approximation - sample.float()).double().square().sum()
