"""Exponential moving average of the minimum and maximum of each batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fxquant.errors import ConfigError
from fxquant.numerics.codes import Codes
from fxquant.observers.base import Observer, ObserverOptions, Summary


def check_sigma(sigma: float) -> None:
    """Raise `ConfigError` unless `sigma` lies in (0, 1]."""
    if not 0 < sigma <= 1:
        raise ConfigError(f"sigma must lie in (0, 1], got {sigma!r}")


@dataclass(frozen=True)
class EMA(ObserverOptions):
    """The range follows the batches: each one moves it by the fraction `sigma` of the difference, in (0, 1]."""

    sigma: float = 0.01

    def __post_init__(self) -> None:
        check_sigma(self.sigma)

    def build(self, spec: Codes, name: str) -> EMAObserver:
        """Return an `EMAObserver`."""
        return EMAObserver(spec, name, self.sigma)


class EMAObserver(Observer):
    """Average the range of the batches, ``(G,)``: the first sets it, then ``m += sigma * (batch - m)`` (FQ-ViT)."""

    minimum: Tensor
    maximum: Tensor

    def __init__(self, spec: Codes, operand: str, sigma: float) -> None:
        super().__init__(spec, operand)
        self.sigma = sigma
        self.register_buffer("minimum", torch.zeros(0))
        self.register_buffer("maximum", torch.zeros(0))

    def summarise(self, rows: Tensor) -> Summary:
        """Return the range of the batch."""
        return self.batch_range(rows)

    def absorb(self, *summary: Tensor) -> None:
        """Move the range towards that of a batch."""
        minimum, maximum = summary
        if self.calibrated:
            minimum = self.minimum + self.sigma * (minimum - self.minimum)
            maximum = self.maximum + self.sigma * (maximum - self.maximum)
        self.minimum, self.maximum = minimum, maximum

    def batch_range(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ``(G,)`` ends of one batch ``(G, n)`` that are averaged."""
        return self.checked_aminmax(rows)

    def range(self) -> tuple[Tensor, Tensor]:
        """Return the averaged ``(min, max)``."""
        return self.minimum, self.maximum
