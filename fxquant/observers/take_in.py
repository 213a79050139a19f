"""How a batch reaches an observer: never as a part of what torch compiles."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class TakesIn(Protocol):
    """What observes."""

    def take_in(self, x: Tensor) -> None:
        """Check a batch `x` of any shape and add it to the statistics."""


def take_in(observer: TakesIn, x: Tensor) -> None:
    """Let `observer` see `x`; statistics follow the data, so that compiling them takes minutes and gains nothing."""
    if torch.compiler.is_compiling():
        from fxquant.observers.uncompiled import uncompiled  # which imports all of torch's compiler

        uncompiled(observer.take_in, x)
    else:
        observer.take_in(x)
