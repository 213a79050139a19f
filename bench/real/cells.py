"""The cells of ``bench.real``: a task, a recipe and bits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import fxquant
from bench.harness.bits import parse_bits
from fxquant.errors import ConfigError


@dataclass(frozen=True)
class RealCell:
    """One measurement. recipe: a name of `fxquant.recipes`. bits: such as W4A8."""

    task: str
    recipe: str
    bits: str

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.task} {self.bits} {self.recipe}"

    @property
    def digest(self) -> str:
        """A few digits that are others when the recipe's constants have changed; "refused" where these bits are."""
        try:
            config = fxquant.recipe(self.recipe, *parse_bits(self.bits))
        except ConfigError:
            return "refused"
        return hashlib.sha256(repr(config).encode()).hexdigest()[:12]
