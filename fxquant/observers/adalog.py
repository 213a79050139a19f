"""Outputs of GELU and of softmax as powers of a base that a search fits to them (AdaLog): specs and observers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fxquant.errors import CalibrationError, ConfigError
from fxquant.numerics.adalog import GRID, RESOLUTION, exact_powers, grid_powers, look_up, powers
from fxquant.numerics.arithmetic import EPS, GELU_MINIMUM, storage_offset
from fxquant.numerics.granularity import PerTensor
from fxquant.observers.base import Summary
from fxquant.observers.minmax import MinMaxObserver
from fxquant.observers.operand_spec import OperandSpec

BASES = 128  # that a search chooses from
SCALES = 16  # each 2^-0.25 times the one before
OCTAVES = 8  # from the largest power to the smallest, before a search


@dataclass(frozen=True)
class _AdaLog(OperandSpec):
    bits: int = 4
    published: bool = False
    int8_products = True
    shift = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 2 <= self.bits <= 8:
            raise ConfigError(f"{type(self).__name__}.bits must be an integer from 2 to 8, got {self.bits!r}")
        if not isinstance(self.published, bool):
            raise ConfigError(f"{type(self).__name__}.published must be True or False, got {self.published!r}")

    @property
    def dtype(self) -> str:
        """Name of the codes, for people."""
        return f"adalog{self.bits}"

    @property
    def granularity(self) -> PerTensor:
        """Base and scale hold for the whole tensor."""
        return PerTensor()

    @property
    def has_codes(self) -> bool:
        """Whether values become integer codes; the published tables of shifts and mantissas have no even steps."""
        return not self.published

    @property
    def qmin(self) -> int:
        """The smallest uniform code, of zero."""
        return 0

    @property
    def qmax(self) -> int:
        """The largest uniform code, of the largest power."""
        return GRID

    @property
    def smallest_base(self) -> int:
        """Q of the first base that a search tries: finer ones than the published pay where zero is near, in even steps."""
        return 10 if self.published else 1


@dataclass(frozen=True)
class AdaLogSoftmax(_AdaLog):
    """
    How the output of softmax is quantised: to powers ``2^(-q Q / 37)`` of a base that is searched (AdaLog).

    bits: b, 2..8; q is one of 0..2^b - 1, and what is smaller counts as 0. The powers are rounded to multiples of 1/255, so
    that the product runs on 8-bit codes. published: to shifted mantissas of a coarse table instead, as in the published code;
    this form exists only simulated.
    """

    def build(self, name: str) -> AdaLogSoftmaxObserver:
        """Return a fresh observer; `name` is the operand it will be named by in errors."""
        return AdaLogSoftmaxObserver(self, name)


@dataclass(frozen=True)
class AdaLogGELU(_AdaLog):
    """
    How the output of GELU is quantised: less the least value of GELU it is a scale times powers of a base (AdaLog).

    bits, published: as of `AdaLogSoftmax`; scale and base are searched together. The shift by the least value becomes the zero
    point of the 8-bit codes, and thus part of the bias of the product; scales are such that it is a whole number, if it is 1 or
    more. minimum: the least value of the function; `prepare` puts that of SiLU, say, in its place where it finds one.
    """

    minimum: float = GELU_MINIMUM

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.minimum, float) or not -math.inf < self.minimum < 0:
            raise ConfigError(f"AdaLogGELU.minimum must be a negative number, got {self.minimum!r}")

    @property
    def shift(self) -> float:  # type: ignore[override]
        """What is added, so that all values are positive."""
        return -self.minimum

    def build(self, name: str) -> AdaLogGELUObserver:
        """Return a fresh observer; `name` is the operand it will be named by in errors."""
        return AdaLogGELUObserver(self, name)


AdaLog = AdaLogGELU | AdaLogSoftmax


@dataclass(frozen=True)
class AdaLogQParams:
    """The value of the power 0 (`largest`) and Q of the base ``2^(Q / 37)``, both 0-dim float32."""

    largest: Tensor
    base: Tensor

    @property
    def axis(self) -> None:
        """Both hold for the whole tensor."""
        return None

    @property
    def scale(self) -> Tensor:
        """The distance of neighbouring 8-bit codes."""
        return self.largest / GRID

    @property
    def step(self) -> Tensor:
        """The binary logarithm of the base."""
        return self.base / RESOLUTION


class AdaLogObserver(MinMaxObserver):
    """What both kinds share: `found_scale` holds the largest value and the base."""

    spec: AdaLog
    stride: int | None = BASES // 8

    def calculate_qparams(self) -> AdaLogQParams:  # type: ignore[override]
        """Return the scale and the base that a search found, else those for the statistics so far."""
        return cast(AdaLogQParams, super().calculate_qparams())

    def refine(self, qparams: AdaLogQParams) -> None:  # type: ignore[override]
        """Let `calculate_qparams` return these from now on."""
        self.found_scale = torch.stack([qparams.largest, qparams.base])

    def found_qparams(self) -> AdaLogQParams:  # type: ignore[override]
        """Return what `refine` was given."""
        return AdaLogQParams(*self.found_scale.unbind())

    def initial_qparams(self) -> AdaLogQParams:  # type: ignore[override]
        """Return the largest value, or a little more, and the base whose smallest power is 2^-8 of it, or the nearest."""
        base = round(RESOLUTION * OCTAVES / (2**self.spec.bits - 1))
        return self._at(self.largest(), max(self.spec.smallest_base, base))

    def largest(self) -> Tensor:
        """Return the largest value, shifted."""
        raise NotImplementedError

    def candidate(self, initial: AdaLogQParams, multipliers: Tensor, index: Tensor) -> AdaLogQParams:  # type: ignore[override]
        """Return the base of number ``index % 128``; with the scale of number ``index // 128``, where that is searched."""
        scale, base = divmod(int(index), BASES)
        return self._at(self.largest() * 2 ** (-scale / 4), self.spec.smallest_base + base)

    def step(self, qparams: AdaLogQParams) -> Tensor:  # type: ignore[override]
        """Return the distance of neighbouring 8-bit codes, 0-dim."""
        return qparams.scale

    def operator_arguments(self) -> dict[str, Tensor | int | float]:
        """Return the scale, the base and the tables for it, and how 8-bit codes are read."""
        found = self.calculate_qparams()
        zero_point = self._zero_point(found)
        table = self._grid(found) - storage_offset(GRID)
        return {
            **{"largest": found.largest, "step": found.step, "shift": self.spec.shift},
            **{"levels": self._levels(found), "table": table.to(torch.int8)},
            **{"scale": found.scale, "zero_point": zero_point.to(torch.int32), "qmin": 0, "qmax": GRID},
        }

    def fake_quantize(self, x: Tensor, qparams: AdaLogQParams) -> Tensor:  # type: ignore[override]
        """Return `x` as it will be after `convert`, float32."""
        if self.spec.published:
            levels = self._levels(qparams)
        else:
            levels = (self._grid(qparams) - self._zero_point(qparams)) * qparams.scale
        return look_up(x, qparams.largest, qparams.step, levels, self.spec.shift)

    def unrounded(self, x: Tensor, qparams: AdaLogQParams) -> Tensor:
        """Return `x` as the powers themselves that it is rounded to, which no table holds, float32."""
        levels = exact_powers(qparams.base, 2**self.spec.bits) * qparams.largest - self.spec.shift
        return look_up(x, qparams.largest, qparams.step, levels, self.spec.shift)

    def _at(self, largest: Tensor, base: int) -> AdaLogQParams:
        """Return a quantisation with the largest value raised until the shift is a whole number of 8-bit steps, if any."""
        largest = largest.clamp(min=EPS)
        steps = torch.floor(self.spec.shift * GRID / largest)
        if self.spec.has_codes:  # a zero point that were rounded would move all values the same way
            largest = torch.where(steps < 1, largest, self.spec.shift * GRID / steps.clamp(min=1))
        return AdaLogQParams(largest, torch.full_like(largest, base))

    def _levels(self, qparams: AdaLogQParams) -> Tensor:
        return powers(qparams.base, 2**self.spec.bits) * qparams.largest - self.spec.shift

    def _grid(self, qparams: AdaLogQParams) -> Tensor:
        return grid_powers(qparams.base, 2**self.spec.bits)

    def _zero_point(self, qparams: AdaLogQParams) -> Tensor:
        return torch.round(self.spec.shift / qparams.scale).clamp(0, GRID)


class AdaLogSoftmaxObserver(AdaLogObserver):
    """Check that it sees probabilities, the largest of which is 1."""

    spec: AdaLogSoftmax

    def summarise(self, rows: Tensor) -> Summary:
        """Return the range of the batch, which must be that of probabilities."""
        minimum, maximum = self.checked_aminmax(rows)
        if float(minimum.min()) < 0 or float(maximum.max()) > 1 + 1e-3:
            raise CalibrationError(
                f"{self._where()}: expected probabilities, found values from {float(minimum.min()):g} to "
                f"{float(maximum.max()):g}; quantise this operand by a TensorSpec"
            )
        return minimum, maximum

    def largest(self) -> Tensor:
        """Return 1."""
        return torch.ones_like(self.maximum[0])

    def candidates(self, multipliers: Tensor) -> int:
        """Return how many bases there are, whatever the `multipliers`."""
        return BASES


class AdaLogGELUObserver(AdaLogObserver):
    """Keep the largest value; the least is that of the function itself."""

    spec: AdaLogGELU

    def largest(self) -> Tensor:
        """Return the largest value less the least of the function."""
        return self.maximum[0].clamp(min=0) + self.spec.shift

    def candidates(self, multipliers: Tensor) -> int:
        """Return how many pairs of a scale and a base there are, whatever the `multipliers`."""
        return SCALES * BASES
