"""
What each recipe costs a real pretrained model, on the tasks of ``bench/real/tasks.py``: ``python -m bench.real``.

Writes ``bench/results/real.json`` after each cell, from which ``python -m bench.tables`` makes the table of
``docs/accuracy.md``. Cells that are there already are skipped unless their recipe has other constants now, so that a run can be
stopped and started again. Needs the extra ``real``.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

import fxquant
from bench.harness.bits import parse_bits
from bench.harness.results import MeasuredOnce, Row, describe_run, open_cells, results_file
from bench.real.cells import RealCell
from bench.real.run import measure_cells
from bench.real.settings import CALIBRATION_BATCH, CALIBRATION_IMAGES, HELD_OUT, SPLITS, UNTRAINED
from bench.real.table import BITS
from bench.real.tasks import TASKS
from fxquant.errors import FxquantError

FILE = results_file("real")


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line asks for and the results file lacks."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    stopped = 0
    try:
        for bits in options.bits:
            parse_bits(bits)  # refuses now what every cell would refuse
        cells = [
            RealCell(task, recipe, bits)
            for task in options.tasks
            for recipe in options.recipes
            for bits in options.bits
        ]
        results = open_results(options.json, options.split, options.images)
        todo = [cell for cell in cells if options.force or not finished(cell, results)]
        print(f"{len(todo)} of {len(cells)} cells to measure", flush=True)
        for cell, row in measure_cells(todo, SPLITS.index(options.split), options.images):
            keep(results, cell, row)
            stopped += "stopped" in row
            print(f"{cell.key}: {row}", flush=True)
    except FxquantError as error:
        parser.error(str(error))
    if stopped:
        raise SystemExit(f"{stopped} cells failed; they are tried again next time")


def open_results(file: Path, split: str, count: int | None) -> MeasuredOnce:
    """Return the rows of a file; raise `SystemExit` where it was measured on other images."""
    settings = {"split": split, "images": count, "calib": CALIBRATION_IMAGES, "calib_batch": CALIBRATION_BATCH}
    return open_cells(file, settings)


def finished(cell: RealCell, results: MeasuredOnce) -> bool:
    """Whether a cell was measured with the config that its recipe gives now, and did not fail."""
    row = results.rows.get(cell.key, {})
    return row.get("config") == cell.digest and "stopped" not in row


def keep(results: MeasuredOnce, cell: RealCell, row: Row) -> None:
    """Write the file with one more row; the top-1 of the float model is kept once for all rows of a task."""
    if "float_top1" in row:
        results.floats[cell.task] = row.pop("float_top1")
    now = describe_run()
    origin = {
        "config": cell.digest,
        "threads": torch.get_num_threads(),
        "date": now["date"][:10],
        "commit": now["commit"],
    }
    results.add(cell.key, asdict(cell) | row | origin)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=list(UNTRAINED), choices=fxquant.recipes(), metavar="NAME")
    parser.add_argument("--bits", nargs="+", default=list(BITS), metavar="WxAy", help=f"by default {' '.join(BITS)}")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), metavar="TASK")
    parser.add_argument("--images", type=int, metavar="N", help="to measure on, if not the number of each task")
    parser.add_argument("--split", default=SPLITS[HELD_OUT], choices=SPLITS, help="of the images (%(default)s)")
    parser.add_argument("--json", type=Path, default=FILE, help="where the figures are kept (%(default)s)")
    parser.add_argument("--force", action="store_true", help="measure again what the results hold already")
    parser.add_argument("--threads", type=int, help="of torch, if not its own number")
    return parser


if __name__ == "__main__":
    main()
