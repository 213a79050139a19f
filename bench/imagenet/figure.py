"""What is known of a published accuracy: of which model and method, at which bits, from which source."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

Options = tuple[tuple[str, Any], ...]


class PublishedEvidence(Enum):
    """How we know a figure; the value is its mark in the printed table."""

    SOURCE = ""  # read in what `Figure.source` names
    QUOTED = "*"  # not seen in the paper itself: as a later paper quotes it


@dataclass(frozen=True)
class Model:
    """A model by its short name and its full timm tag; `timm_top1` is timm's own figure for that tag."""

    name: str
    tag: str
    timm_top1: float


@dataclass(frozen=True)
class Synthesis:
    """That calibration images are made from the model. options, published: of `fxquant.synthesize`, as those of `Figure`."""

    options: Options = ()
    published: Options = ()


@dataclass(frozen=True)
class Figure:
    """
    One published accuracy.

    table: one of "ptq4vit", "noisyquant", "fqvit", "psaq" and "low_bits". top1: None for a recipe that nobody published, which
    stands beside those that were. calibration: images. options: make the recipe quantise what the paper quantises. published:
    with these as well, it has the constants of the published method; without, those of fxquant; None: it has those of fxquant
    alone. batch: calibration images at a time, where statistics depend on it; None: as many as are evaluated at a time.
    synthesis: None where the images are real.
    """

    table: str
    method: str
    model: Model
    w_bits: int
    a_bits: int
    float_top1: float
    top1: float | None
    recipe: str
    calibration: int
    source: str
    evidence: PublishedEvidence = PublishedEvidence.SOURCE
    options: Options = ()
    published: Options | None = (("published", True),)
    batch: int | None = None
    synthesis: Synthesis | None = None

    @property
    def bits(self) -> str:
        """Bits of weights and activations, such as "W4A8"."""
        return f"W{self.w_bits}A{self.a_bits}"

    @property
    def departs(self) -> bool:
        """Whether the published constants are others than those of fxquant."""
        return bool(self.published or (self.synthesis and self.synthesis.published))


@dataclass(frozen=True)
class Reference:
    """A published accuracy of a method that fxquant has no recipe of; see `Figure`."""

    table: str
    method: str
    model: Model
    bits: str
    float_top1: float
    top1: float
    source: str
    evidence: PublishedEvidence = PublishedEvidence.SOURCE
