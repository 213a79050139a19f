"""What the zoo walks: a model, and the inputs it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Entry:
    """
    One model of the zoo.

    source: where it comes from, such as "torchvision". family: unique in its source. model: its name there. build: makes it,
    with random weights. inputs: makes random inputs for a batch of so many.
    """

    source: str
    family: str
    model: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]

    @property
    def key(self) -> str:
        """Return the name by which the command line asks for it."""
        return f"{self.source}/{self.family}"


def images(batch: int, size: int) -> tuple[Tensor, ...]:
    """Return random images ``(B, 3, size, size)``."""
    return (torch.randn(batch, 3, size, size),)
