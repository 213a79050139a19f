"""
How latency and memory grow with the batch, the depth and the resolution, for int8 and for bfloat16 under torch.compile.

Run ``python -m bench.growth`` to write ``bench/results/growth.json`` and docs/growth.svg. Competitors are timed in interleaved
rounds of one process; for its memory each is built once more in a process of its own. Cells that are measured replace those
of the file. ``--plot`` only draws what the file holds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from bench.growth import plot as growth_plot
from bench.harness.results import RESULTS, write_results
from bench.latency.__main__ import run_cell
from fxquant.benchmark.competitors import COMPETITORS
from fxquant.benchmark.run_engines import select_competitors

NAMES = ("bf16-compile", "fxquant-compile", "fxquant-bf16-compile")
AXES = {
    "batch": (1, 2, 4, 8, 16, 32),
    "depth": (3, 6, 12, 24),
    "resolution": (160, 224, 288, 384, 448),
}


@dataclass(frozen=True)
class GrowthCell:
    """One measurement. resolution: height and width in pixels, a multiple of the model's patch."""

    model: str = "vit_small_patch16_224"
    batch: int = 4
    depth: int = 12
    resolution: int = 224


def main() -> None:
    """Measure the cells that were asked for, write them and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--values", nargs="+", type=int, metavar="N", help="along each of the axes (the usual ones)")
    for name, value in asdict(GrowthCell()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help="where it does not vary (%(default)s)")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--plot", action="store_true", help="measure nothing, only draw docs/growth.svg")
    parser.add_argument("--competitors", nargs="+", default=NAMES, metavar="NAME", help="(%(default)s)")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        cell = GrowthCell(**json.loads(options.cell))
        print(json.dumps(measure_cell(cell, options.competitors, options.rounds, options.threads)))
        return
    select_competitors(options.competitors)  # refuses unknown names before anything is measured
    base = GrowthCell(options.model, options.batch, options.depth, options.resolution)
    for axis in [] if options.plot else options.axes:
        for value in options.values or AXES[axis]:
            row = {"axis": axis, "value": value} | measure_in_processes(_cell_at(base, axis, value), options)
            print(f"{axis} {value}: {_shown(row)}", flush=True)
            write_results("growth", merge(row), recipe="minmax W8A8, random images", seed=0)
    growth_plot.draw()


def measure_cell(cell: GrowthCell, names: Sequence[str], rounds: int, threads: int) -> dict[str, Any]:
    """Measure one cell in this process."""
    torch.set_num_threads(threads)
    competitors = [competitor for competitor in COMPETITORS if competitor.name in names]
    row = run_cell(cell.model, cell.batch, rounds, competitors, depth=cell.depth, img_size=cell.resolution)
    return row | asdict(cell)


def measure_in_processes(cell: GrowthCell, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the times of one cell in one process, and the memory of each competitor in one of its own."""
    row = _in_process(cell, options.competitors, options.rounds, options.threads)
    for name in options.competitors:
        alone = _in_process(cell, [name], 1, options.threads)
        row["results"][name]["memory_bytes"] = alone["results"][name]["memory_bytes"]
    return row


def merge(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the file, with `row` in the place of its own earlier measurement, ordered by axis and value."""
    file = RESULTS / "growth.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    key = ("axis", "value", "model", "threads")
    kept = [r for r in rows if any(r[k] != row[k] for k in key)] + [row]
    return sorted(kept, key=lambda r: (list(AXES).index(r["axis"]), r["value"]))


def _cell_at(base: GrowthCell, axis: str, value: int) -> GrowthCell:
    varied: dict[str, Any] = {axis: value}
    return replace(base, **varied)


def _in_process(cell: GrowthCell, names: Sequence[str], rounds: int, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.growth", "--cell", json.dumps(asdict(cell)), "--competitors", *names]
    command += ["--rounds", str(rounds), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{cell} failed:\n{done.stderr}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def _shown(row: dict[str, Any]) -> str:
    cells = []
    for name, result in row["results"].items():
        memory = result["memory_bytes"]
        figures = f"{result['p50_ms']} ms" + (f", {memory / 1e6:.0f} MB" if memory is not None else "")
        cells.append(f"{name} {result['reason'] or figures}")
    return "; ".join(cells)


if __name__ == "__main__":
    main()
