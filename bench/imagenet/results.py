"""The rows of ``bench.imagenet``: what one is, the file they are kept in, the tables they are printed as."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.imagenet.tables import Figure, PublishedEvidence, Synthesis
from fxquant.errors import InputError
from fxquant.files import write_json
from fxquant.measurement.option_values import format_value

TOLERANCE = 0.3  # points between two float accuracies of one checkpoint, measured in different libraries
VALIDATION_IMAGES = 50_000
Row = dict[str, Any]
_TEXTS = ("model", "bits", "method", "constants", "images")
_NUMBERS = ("published float", "float", "published", "top-1", "published drop", "drop")


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
        return dict(source.options) | (dict(source.published) if self.constants == "published" else {})


class ImagenetResults:
    """
    A JSON file of rows and float results by key, shared by processes.

    Each entry is written at once and as a whole, under a lock that a killed process loses: the file is valid at any time.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = FileLock(f"{file}.lock")

    def read(self) -> dict[str, dict[str, Row]]:
        """Return ``{"floats": {key: result}, "rows": {key: row}}``; raise `InputError` for a file of something else."""
        empty: dict[str, dict[str, Row]] = {"floats": {}, "rows": {}}
        if not self.file.exists():
            return empty
        try:
            data = json.loads(self.file.read_text(encoding="utf-8"))
            return {part: dict(data[part]) for part in empty}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{str(self.file)!r} does not hold rows of this benchmark: {error}") from error

    def put(self, part: str, key: str, row: Row) -> None:
        """Add or replace one entry of "floats" or "rows"."""
        with self._lock:
            data = self.read()
            data[part][key] = row
            write_json(self.file, data)


def is_done(row: Row | None) -> bool:
    """Say whether a row holds a result: one that failed is tried again."""
    return row is not None and "error" not in row


def describe_gap(figure: Figure, measured: float) -> str | None:
    """Return why a float accuracy makes its row incomparable with the published one, None where it does not."""
    if abs(measured - figure.float_top1) <= TOLERANCE:
        return None
    return (
        f"{figure.model.tag}: the float model has {measured:.2f} % here and {figure.float_top1:.2f} % in {figure.source}: "
        "another checkpoint, other images or another preprocessing. The rows are not comparable"
    )


def render(jobs: Sequence[Job], rows: Mapping[str, Row]) -> str:
    """Return the published tables in Markdown with our figures beside them; rows that are not there have dashes."""
    parts = []
    for table in dict.fromkeys(job.figure.table for job in jobs):
        own = [job for job in jobs if job.figure.table == table]
        lines = [f"## {table}", "", _line(_TEXTS + _NUMBERS)]
        lines.append(_line(["---"] * len(_TEXTS) + ["---:"] * len(_NUMBERS)))
        lines += [_line(_cells(job, rows.get(job.key))) for job in own]
        parts.append("\n".join([*lines, "", *_notes(own, rows)]))
    return "\n\n".join(parts)


def _cells(job: Job, row: Row | None) -> list[str]:
    figure = job.figure
    images = f"{job.calibration}{'' if figure.synthesis is None else ' synthetic'}"
    cells = [figure.model.name, figure.bits, figure.method, job.constants, images]
    published = [f"{figure.float_top1:.2f}", f"{figure.top1:.2f}{figure.evidence.value}"]
    drop = f"{figure.float_top1 - figure.top1:.2f}"
    if row is None or not is_done(row):
        missing = "-" if row is None else "error"
        return [*cells, published[0], "-", published[1], missing, drop, "-"]
    reference, top1 = row["float"]["top1_percent"], row["top1_percent"]
    return [*cells, published[0], f"{reference:.2f}", published[1], f"{top1:.2f}", drop, f"{reference - top1:.2f}"]


def _notes(jobs: Sequence[Job], rows: Mapping[str, Row]) -> list[str]:
    done = [(job, rows[job.key]) for job in jobs if is_done(rows.get(job.key))]
    gaps = [describe_gap(job.figure, row["float"]["top1_percent"]) for job, row in done]
    few = sorted({row["images"] for _, row in done if row["images"] != VALIDATION_IMAGES})
    quoted = any(job.figure.evidence is PublishedEvidence.QUOTED for job in jobs)
    sources = dict.fromkeys(f"{job.figure.evidence.value} {job.figure.source}".strip() for job in jobs)
    return [
        f"Published: {'; '.join(sources)}." + (" * as a later paper quotes it." if quoted else ""),
        "Top-1 in percent. constants: of the published method, or fxquant's own. images: to calibrate with.",
        *(f"Warning: {gap}." for gap in dict.fromkeys(filter(None, gaps))),
        *(
            [f"Warning: evaluated on {', '.join(map(str, few))} images, published on {VALIDATION_IMAGES}."]
            if few
            else []
        ),
        *_errors((job.key, rows.get(job.key)) for job in jobs),
    ]


def _listed(options: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={format_value(value)}" for name, value in sorted(options.items()))


def _errors(rows: Iterable[tuple[str, Row | None]]) -> list[str]:
    return [f"Error: {key}: {row['error']}" for key, row in rows if row is not None and "error" in row]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
