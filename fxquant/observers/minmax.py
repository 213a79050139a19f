"""Running minimum and maximum over all calibration batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fxquant.numerics.codes import Codes
from fxquant.observers.base import ObservedSpec, Observer, ObserverOptions, Summary


@dataclass(frozen=True)
class MinMax(ObserverOptions):
    """The range is the smallest and the largest value ever seen."""

    def build(self, spec: Codes, name: str) -> MinMaxObserver:
        """Return a `MinMaxObserver`."""
        return MinMaxObserver(spec, name)


class MinMaxObserver(Observer):
    """Keep the running minimum and maximum, ``(G,)`` each."""

    minimum: Tensor
    maximum: Tensor

    def __init__(self, spec: ObservedSpec, operand: str) -> None:
        super().__init__(spec, operand)
        self.register_buffer("minimum", torch.zeros(0))
        self.register_buffer("maximum", torch.zeros(0))

    def summarise(self, rows: Tensor) -> Summary:
        """Return the range of the batch, ``(G,)`` each."""
        return self.checked_aminmax(rows)

    def absorb(self, *summary: Tensor) -> None:
        """Widen the range to hold that of a batch."""
        minimum, maximum = summary
        if self.calibrated:
            minimum, maximum = torch.minimum(self.minimum, minimum), torch.maximum(self.maximum, maximum)
        self.minimum, self.maximum = minimum, maximum

    def range(self) -> tuple[Tensor, Tensor]:
        """Return the running ``(min, max)``."""
        return self.minimum, self.maximum
