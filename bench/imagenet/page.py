"""The tables that ``bench.imagenet`` prints: published figures with ours beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bench.harness.results import Row
from bench.imagenet.figure import Figure, PublishedEvidence, Reference
from bench.imagenet.jobs import Job
from bench.imagenet.low_bits import REFERENCES
from bench.imagenet.results import is_done
from bench.markdown import markdown

TOLERANCE = 0.3  # points between two float accuracies of one checkpoint, measured in different libraries
VALIDATION_IMAGES = 50_000
_TEXTS = ("model", "bits", "method", "constants", "images")
_NUMBERS = ("published float", "float", "published", "top-1", "published drop", "drop")


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
        text = markdown(_TEXTS + _NUMBERS, [_cells(job, rows.get(job.key)) for job in own], text=len(_TEXTS))
        parts.append("\n".join([f"## {table}", "", text, "", *_notes(own, rows), *_references(table, own)]))
    return "\n\n".join(parts)


def _references(table: str, jobs: Sequence[Job]) -> list[str]:
    """Return the lines of a table of methods that there is no recipe of, at the bits and of the models of `jobs`."""
    shown = {(job.figure.model, job.figure.bits) for job in jobs}
    found = [each for each in REFERENCES if each.table == table and (each.model, each.bits) in shown]
    if not found:
        return []
    rows = []
    for each in found:
        figures = [f"{each.float_top1:.2f}", f"{each.top1:.2f}{each.evidence.value}"]
        drop = f"{each.float_top1 - each.top1:.2f}"
        rows.append([each.model.name, each.bits, each.method, *figures, drop])
    head = ("model", "bits", "method without a recipe", "published float", "published", "published drop")
    return ["", markdown(head, rows, text=3), "", _sources(found)]


def _cells(job: Job, row: Row | None) -> list[str]:
    figure = job.figure
    images = f"{job.calibration}{'' if figure.synthesis is None else ' synthetic'}"
    cells = [figure.model.name, figure.bits, figure.method, job.constants, images]
    published, drop = [f"{figure.float_top1:.2f}", "-"], "-"
    if figure.top1 is not None:
        published[1] = f"{figure.top1:.2f}{figure.evidence.value}"
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
    published = [job.figure for job in jobs if job.figure.top1 is not None]
    return [
        *([_sources(published)] if published else []),
        "Top-1 in percent. constants: of the published method, or fxquant's own. images: to calibrate with.",
        *(f"Warning: {gap}." for gap in dict.fromkeys(filter(None, gaps))),
        *(
            [f"Warning: evaluated on {', '.join(map(str, few))} images, published on {VALIDATION_IMAGES}."]
            if few
            else []
        ),
        *_errors((job.key, rows.get(job.key)) for job in jobs),
    ]


def _sources(figures: Sequence[Figure | Reference]) -> str:
    quoted = any(figure.evidence is PublishedEvidence.QUOTED for figure in figures)
    sources = dict.fromkeys(f"{figure.evidence.value} {figure.source}".strip() for figure in figures)
    return f"Published: {'; '.join(sources)}." + (" * as a later paper quotes it." if quoted else "")


def _errors(rows: Iterable[tuple[str, Row | None]]) -> list[str]:
    return [f"Error: {key}: {row['error']}" for key, row in rows if row is not None and "error" in row]
