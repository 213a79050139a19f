"""The options of block-wise reconstruction."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from fxquant.config.iterations import PUBLISHED_ITERATIONS
from fxquant.errors import ConfigError, expect_whole

_WEIGHT_LR, _RELATIVE_LR, _SCALE_LR = 2e-5, 0.002, 2e-4


@dataclass(frozen=True)
class ReconstructionOptions:
    """
    How blocks are reconstructed; the defaults are those of GLF-Q.

    iterations: of each block. batch_size: images of each iteration, of all processes together.
    weight_lr: the step of Adam for weights and biases. None is 2e-5 for 3000 iterations or more. For fewer it is 0.002 of the
    distance between neighbouring codes, which is about as much at 4 bits, times the root of how many times fewer there are.
    scale_lr: the step for the logarithms of the scales of activations. None is 2e-4, times that root.
    local_weight: of the loss at the output of the block, where that of the global feature counts as 1.
    cosine: let the steps shrink to nothing along a cosine. None does so for fewer than 3000 iterations.
    held_out: the part of the images that no block is trained on; they tell whether what was trained is kept.

    Raises `ConfigError` for values that cannot be meant.
    """

    iterations: int = PUBLISHED_ITERATIONS
    batch_size: int = 32
    weight_lr: float | None = None
    scale_lr: float | None = None
    local_weight: float = 2.0
    cosine: bool | None = None
    held_out: float = 0.125

    def __post_init__(self) -> None:
        """Raise `ConfigError` for impossible values."""
        for name in ("iterations", "batch_size"):
            expect_whole(name, getattr(self, name), least=1)
        _number("local_weight", self.local_weight)
        for name in ("weight_lr", "scale_lr"):
            if getattr(self, name) is not None:
                _number(name, getattr(self, name))
        if self.cosine not in (None, True, False):
            raise ConfigError(f"cosine must be true, false or None, got {self.cosine!r}")
        _number("held_out", self.held_out)
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out must lie between 0 and 1, got {self.held_out!r}")

    def step_of_weight(self, between_codes: float) -> float:
        """Return the first step of Adam for a weight and its bias; between_codes: the mean distance of neighbouring codes."""
        if self.weight_lr is not None:
            return self.weight_lr
        return _WEIGHT_LR if self._hurry == 1 else _RELATIVE_LR * self._hurry * between_codes

    @property
    def step_of_scales(self) -> float:
        """The first step of Adam for the logarithms of scales."""
        return _SCALE_LR * self._hurry if self.scale_lr is None else self.scale_lr

    @property
    def decays(self) -> bool:
        """Whether the steps shrink along a cosine."""
        return self._hurry > 1 if self.cosine is None else self.cosine

    @property
    def _hurry(self) -> float:
        ratio: float = max(1.0, PUBLISHED_ITERATIONS / self.iterations)
        return math.sqrt(ratio)


def make_options(given: dict[str, Any]) -> ReconstructionOptions:
    """Return the options with the values `given` by name; raise `ConfigError` for an unknown name."""
    known = [field.name for field in fields(ReconstructionOptions)]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]!r} of reconstruction: expected one of {', '.join(known)}")
    return ReconstructionOptions(**given)


def _number(name: str, value: object) -> None:
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{name} must be a finite number, not negative, got {value!r}")
