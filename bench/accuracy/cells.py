"""The cells of ``bench.accuracy``: which figures were asked for, and under which name each is kept."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fxquant
from bench.accuracy.table import ABLATION_BITS, ABLATIONS, Variant
from bench.harness.bits import parse_bits
from fxquant.errors import ConfigError


@dataclass(frozen=True)
class Cell:
    """One figure of the benchmark. seed: of the calibration images and of the recipe's random choices."""

    model: str
    outliers: str
    bits: str
    recipe: str
    options: Mapping[str, Any]
    seed: int

    @property
    def key(self) -> str:
        """Its name in the results; variants that are the same recipe with the same options share one."""
        options = "".join(f" {name}={value}" for name, value in sorted(self.options.items()))
        return f"{self.model} {self.outliers} {self.bits} {self.recipe}{options} seed {self.seed}"

    @property
    def digest(self) -> str:
        """A few digits that are others when the recipe's constants have changed."""
        return hashlib.sha256(repr(self.config).encode()).hexdigest()[:12]

    @property
    def config(self) -> fxquant.QuantConfig:
        """What is quantised, and how; raises `ConfigError` where the recipe, its options or the bits are unknown."""
        return fxquant.recipe(self.recipe, *parse_bits(self.bits), **self.options)


def select_cells(options: argparse.Namespace) -> list[Cell]:
    """
    Return the cells that were asked for, each once, those of the first seed first.

    Raises `ConfigError` for what is not known: a recipe, an ablation, bits.
    """
    variants = [(Variant(name, name), tuple(options.bits)) for name in options.recipes]
    groups = () if options.ablations is None else options.ablations or ABLATIONS
    unknown = set(groups) - set(ABLATIONS)
    if unknown:
        raise ConfigError(f"unknown ablation {', '.join(sorted(unknown))}: expected some of {', '.join(ABLATIONS)}")
    narrow = tuple(bits for bits in options.bits if bits in ABLATION_BITS)
    variants += [(variant, narrow) for group in groups for variant in ABLATIONS[group]]
    cells = [
        Cell(model, outliers, bits, variant.recipe, variant.options, seed)
        for seed in options.seeds
        for model in options.models
        for outliers in options.outliers
        for variant, widths in variants
        for bits in widths
    ]
    for cell in cells:
        _ = cell.config  # refuse it now, not when its turn comes
    return list({cell.key: cell for cell in cells}.values())
