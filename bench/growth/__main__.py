"""
How latency and memory grow with the batch, the depth and the resolution, for int8 and for bfloat16 under torch.compile.

Run ``python -m bench.growth`` to write ``bench/results/growth.json`` and docs/growth.svg. Competitors are timed in interleaved
rounds of one process; for its memory each is built once more in a process of its own. Cells that are measured replace those
of the file. ``--plot`` only draws what the file holds.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

import torch

from bench.growth.cells import AXES, NAMES, ROWS, GrowthCell, measure_cell, measure_in_processes
from bench.growth.plot import draw
from bench.harness.results import Row
from fxquant.benchmark.run_engines import select_competitors


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
            cell = base.at(axis, value)
            measured = measure_in_processes(cell, options.competitors, options.rounds, options.threads)
            row = {"axis": axis, "value": value} | measured
            print(f"{axis} {value}: {_shown(row)}", flush=True)
            ROWS.add(row)
    draw()


def _shown(row: Row) -> str:
    cells = []
    for name, result in row["results"].items():
        memory = result["memory_bytes"]
        figures = f"{result['p50_ms']} ms" + (f", {memory / 1e6:.0f} MB" if memory is not None else "")
        cells.append(f"{name} {result['reason'] or figures}")
    return "; ".join(cells)


if __name__ == "__main__":
    main()
