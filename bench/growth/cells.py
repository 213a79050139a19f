"""What ``bench.growth`` measures: one model along one axis, its times together and the memory of each competitor alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from bench.harness.processes import row_of
from bench.harness.results import Row, RowsFile
from bench.latency.cells import run_cell
from fxquant.benchmark.competitors import COMPETITORS

NAMES = ("bf16-compile", "fxquant-compile", "fxquant-bf16-compile")
AXES = {
    "batch": (1, 2, 4, 8, 16, 32),
    "depth": (3, 6, 12, 24),
    "resolution": (160, 224, 288, 384, 448),
}
ROWS = RowsFile(
    "growth",
    ("axis", "value", "model", "threads"),
    {"recipe": "minmax W8A8, random images", "seed": 0},
    lambda row: (list(AXES).index(row["axis"]), row["value"]),
)


@dataclass(frozen=True)
class GrowthCell:
    """One measurement. resolution: height and width in pixels, a multiple of the model's patch."""

    model: str = "vit_small_patch16_224"
    batch: int = 4
    depth: int = 12
    resolution: int = 224

    def at(self, axis: str, value: int) -> GrowthCell:
        """Return the cell that differs along one axis."""
        varied: dict[str, Any] = {axis: value}
        return replace(self, **varied)


def measure_cell(cell: GrowthCell, names: Sequence[str], rounds: int, threads: int) -> Row:
    """Measure one cell in this process."""
    torch.set_num_threads(threads)
    competitors = [competitor for competitor in COMPETITORS if competitor.name in names]
    row = run_cell(cell.model, cell.batch, rounds, competitors, depth=cell.depth, img_size=cell.resolution)
    return row | asdict(cell)


def measure_in_processes(cell: GrowthCell, names: Sequence[str], rounds: int, threads: int) -> Row:
    """Measure the times of one cell in one process, and the memory of each competitor in one of its own."""
    row = _in_process(cell, names, rounds, threads)
    for name in names:
        alone = _in_process(cell, [name], 1, threads)
        row["results"][name]["memory_bytes"] = alone["results"][name]["memory_bytes"]
    return row


def _in_process(cell: GrowthCell, names: Sequence[str], rounds: int, threads: int) -> Row:
    what = ["--cell", json.dumps(asdict(cell)), "--competitors", *names]
    return row_of("bench.growth", *what, "--rounds", str(rounds), "--threads", str(threads))
