"""What a mixed config may cost, and how accurate it has to be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum

from fxquant.errors import ConfigError

_UNITS = {"": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "ms": 1e-3, "us": 1e-6, "s": 1.0}


class Cost(str, Enum):
    """
    What a config costs for the images of one calibration batch, or for the model.

    MEAN_BITS: of all weights. BIT_OPERATIONS: multiply-accumulates times the bits of both operands, 32 each for a product of
    floats, and 64 for each value of which a scale per token has to find the range. SIZE: bytes of weights. LATENCY: seconds,
    as `fxquant.precision.part_seconds` measures them here. FLOAT_SHARE: of the multiply-accumulates, that which is not int8.
    """

    MEAN_BITS = "mean_bits"
    BIT_OPERATIONS = "bit_operations"
    SIZE = "size"
    LATENCY = "latency"
    FLOAT_SHARE = "float_share"


@dataclass(frozen=True)
class PrecisionBudget:
    """
    What has to hold, all of it; at least one.

    error: the largest ``|y - y_float| / |y_float|`` over all outputs. drop: how far the task's metric may fall below that of
    the float model, in its own unit. mean_bits, bit_operations, size (bytes), latency (seconds): the most it may cost, see
    `Cost`. int8: the least share of the multiply-accumulates that stay on int8, from 0 to 1.

    Raises `ConfigError` for a number that is none of these.
    """

    error: float | None = None
    drop: float | None = None
    mean_bits: float | None = None
    bit_operations: float | None = None
    size: float | None = None
    latency: float | None = None
    int8: float | None = None

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        if not given:
            raise ConfigError(f"expected a budget of at least one of {', '.join(f.name for f in fields(self))}")
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ConfigError(f"PrecisionBudget.{name} must be a number of at least 0, got {value!r}")
        if self.int8 is not None and self.int8 > 1:
            raise ConfigError(f"PrecisionBudget.int8 is a share, from 0 to 1, got {self.int8!r}")

    @classmethod
    def parse(cls, text: str) -> PrecisionBudget:
        """
        Return the budget that a text such as "error=0.1,int8=0.9", "size=6MB" or "latency=20ms" names.

        Raises `ConfigError` for anything else.
        """
        known, given = [f.name for f in fields(cls)], {}
        for part in text.split(","):
            name, equals, value = (each.strip() for each in part.partition("="))
            digits = value.rstrip("KMGBmsu")
            if name not in known or not equals or value[len(digits) :] not in _UNITS or not _is_number(digits):
                raise ConfigError(
                    f"expected a budget such as error=0.1,int8=0.9, of {', '.join(known)}, found {part.strip()!r}"
                )
            given[name] = float(digits) * _UNITS[value[len(digits) :]]
        return cls(**given)

    @property
    def limits(self) -> dict[Cost, float]:
        """The most that may be spent of each cost that has a limit."""
        most: dict[Cost, float | None] = {
            cost: getattr(self, cost.value) for cost in Cost if cost is not Cost.FLOAT_SHARE
        }
        if self.int8 is not None:
            most[Cost.FLOAT_SHARE] = 1 - self.int8
        return {cost: limit for cost, limit in most.items() if limit is not None}

    @property
    def asks_for_accuracy(self) -> bool:
        """Whether there is a limit to the error or to the drop; else the most accurate config that is paid for is wanted."""
        return self.error is not None or self.drop is not None

    def allows(self, error: float, score: float | None, float_score: float | None) -> bool:
        """Say whether a model that was measured is accurate enough."""
        if self.error is not None and error > self.error:
            return False
        fallen = None if score is None or float_score is None else float_score - score
        return self.drop is None or (fallen is not None and fallen <= self.drop)

    def affords(self, costs: Mapping[Cost, float]) -> bool:
        """Say whether `costs` are within all limits."""
        return all(costs[cost] <= limit * (1 + 1e-9) for cost, limit in self.limits.items())


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
