"""The rows of ``bench.imagenet``: what one is, and which were asked for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.imagenet.figure import Figure, Synthesis
from bench.imagenet.tables import FIGURES
from fxquant.data.folder import ImageTree
from fxquant.errors import InputError
from fxquant.measurement.option_values import format_value


@dataclass(frozen=True)
class Job:
    """
    One row: a published figure, and all that decides what is measured beside it.

    constants: "published" or "fxquant". images: how many the folder has for calibration and evaluation. shared: both are the
    same files, so that the calibration images are left out of the evaluation.
    """

    figure: Figure
    constants: str
    calibration: int
    limit: int | None
    seed: int
    target: str
    images: tuple[int, int]
    shared: bool

    @property
    def options(self) -> dict[str, Any]:
        """Options of the recipe."""
        return self._with_constants(self.figure)

    @property
    def synthesis(self) -> dict[str, Any] | None:
        """Options of image synthesis, None where the images are real."""
        return self._with_constants(self.figure.synthesis) if self.figure.synthesis else None

    @property
    def drawn(self) -> int:
        """How many calibration images come from the folder."""
        return self.calibration if self.figure.synthesis is None else 0

    @property
    def key(self) -> str:
        """Name of the row in the file: rows that differ in anything that matters have different ones."""
        recipe = f"{self.figure.recipe}({_listed(self.options)})"
        what = f"{self.figure.model.tag} {self.figure.bits} {recipe} {self._calibration}"
        return f"{what} {self._evaluation} seed={self.seed} {self.target}"

    @property
    def float_key(self) -> str:
        """Name of the float model's result on the same images."""
        without = f" without {self.drawn}" if self.shared and self.drawn else ""
        seed = f" seed={self.seed}" if self.limit or without else ""
        return f"{self.figure.model.tag} float {self._evaluation}{seed}{without}"

    @property
    def _calibration(self) -> str:
        made = None if self.synthesis is None else f"synthetic({_listed(self.synthesis)}) images"
        batches = f" by {self.figure.batch}" if self.figure.batch else ""
        return f"{self.calibration} {made or f'of {self.images[0]} images'}{batches}"

    @property
    def _evaluation(self) -> str:
        return f"on {self.limit or 'all'} of {self.images[1]}"

    def _with_constants(self, source: Figure | Synthesis) -> dict[str, Any]:
        return dict(source.options) | (dict(source.published or ()) if self.constants == "published" else {})


def choices(name: str) -> list[str]:
    """Return what the published figures have as "table", "recipe" or "bits"."""
    return sorted({getattr(figure, name) for figure in FIGURES})


def model_names() -> list[str]:
    """Return the short names of all models, in the order of the tables."""
    return list(dict.fromkeys(figure.model.name for figure in FIGURES))


def choose_figures(options: argparse.Namespace) -> list[Figure]:
    """Return the published figures that were asked for; raise `InputError` for an unknown model, and where there is none."""
    known = {name for figure in FIGURES for name in (figure.model.name, figure.model.tag)}
    unknown = sorted(set(options.models or ()) - known)
    if unknown:
        raise InputError(f"no published figure for {', '.join(unknown)}: expected {', '.join(sorted(known))}")
    chosen = [
        figure
        for figure in FIGURES
        if figure.table in options.tables
        and figure.recipe in options.recipes
        and figure.bits in options.bits
        and (not options.models or {figure.model.name, figure.model.tag} & set(options.models))
    ]
    if not chosen:
        raise InputError("no published figure has all of these --tables, --models, --bits and --recipes")
    # Rows of one model are neighbours: it is loaded once, and its float accuracy measured once.
    order = list(dict.fromkeys(figure.model for figure in FIGURES))
    return sorted(chosen, key=lambda figure: order.index(figure.model))


def list_jobs(options: argparse.Namespace, tree: ImageTree) -> list[Job]:
    """Return the rows to measure, by model."""
    images, shared = (len(tree.calibration), len(tree.evaluation)), tree.shared
    return [
        Job(
            figure,
            name,
            options.calib or figure.calibration,
            options.limit,
            options.seed,
            options.target,
            images,
            shared,
        )
        for figure in choose_figures(options)
        for name in forms(figure, options.constants)
    ]


def forms(figure: Figure, constants: Sequence[str]) -> list[str]:
    """Return with which of the `constants` a figure has rows: with one where both are the same, or there is but one."""
    if figure.published is None:
        return [name for name in dict.fromkeys(constants) if name == "fxquant"]
    both = figure.departs or "published" not in constants
    return [name for name in dict.fromkeys(constants) if name == "published" or both]


def _listed(options: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={format_value(value)}" for name, value in sorted(options.items()))
