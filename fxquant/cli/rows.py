"""Tables of measured models."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from fxquant.calibration.sharing import sharing_of
from fxquant.cli.output import format_table
from fxquant.distributed import world_size
from fxquant.measurement.experiment import Row
from fxquant.measurement.timing import Timing


def describe_calibration(prepared: fx.GraphModule, images: int, seconds: float) -> str:
    """Return a line on how calibration went; with several processes also on what they shared."""
    shared = f" on {world_size()} processes: {sharing_of(prepared).value}" if world_size() > 1 else ""
    return f"calibrated with {images} images in {seconds:.1f} s{shared}"


def format_rows(rows: Sequence[Row], timings: dict[str, dict[str, str]] | None = None) -> str:
    """Return the table of `rows` without empty columns; `timings` adds some, by header and then by row name."""
    header = ["", "top-1 %", "top-5 %", "agree %", "size MB", "int8 MACs %", *(timings or {})]
    lines = []
    for row in rows:
        numbers = (row.evaluation.top1, row.evaluation.top5, row.agreement)
        cells = [row.name, *(_cell(number) for number in numbers)]
        cells.append(_cell(row.size and row.size / 1e6))
        cells.append(_cell(None if row.coverage is None else 100 * row.coverage, digits=1))
        cells += [column.get(row.name, "") for column in (timings or {}).values()]
        lines.append(cells)
    kept = [i for i in range(len(header)) if any(cells[i] for cells in lines)]
    return format_table([header[i] for i in kept], [[cells[i] for i in kept] for cells in lines])


def format_timing(timing: Timing, images: int) -> str:
    """Return milliseconds per image."""
    return f"{1000 * timing.median / images:.3f}"


def _cell(number: float | None, digits: int = 2) -> str:
    return "" if number is None else f"{number:.{digits}f}"
