"""
What each recipe costs in accuracy, on the stand-ins of ``bench/standins``, with and without injected outlier channels.

``python -m bench.accuracy`` calibrates each recipe at each bit width with each seed, a fresh process each, and writes
``bench/results/accuracy.json``; ``bench.accuracy.table`` makes ``docs/accuracy.md`` of it. Cells that are there already
are skipped, so an interrupted run goes on where it stopped. ``--ablations`` adds variants of the recipes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from bench.accuracy.cells import select_cells
from bench.accuracy.results import AccuracyResults
from bench.accuracy.run import run
from bench.accuracy.table import ABLATION_BITS, ABLATIONS, BITS, FILE, OUTLIERS, RECIPES
from bench.standins import STANDINS
from fxquant.errors import FxquantError


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line asks for and the results file lacks."""
    parser = _parser()
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    failed = 0
    try:
        cells = select_cells(options)
        results = AccuracyResults(options.out, options.calib, options.threads)
        todo = [cell for cell in cells if options.force or not results.finished(cell)]
        print(f"{len(todo)} of {len(cells)} cells to measure", flush=True)
        for cell, row in run(todo, results, options):
            failed += "stopped" in row
            print(f"{cell.key}: {row.get('stopped') or '{top1:.2f} %, {sqnr_db} dB'.format(**row)}", flush=True)
    except FxquantError as error:
        parser.error(str(error))
    if failed:
        raise SystemExit(f"{failed} cells failed; they are tried again next time")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(STANDINS), choices=list(STANDINS))
    parser.add_argument("--outliers", nargs="+", default=list(OUTLIERS), choices=OUTLIERS, help="injected or not")
    parser.add_argument("--bits", nargs="+", default=list(BITS), metavar="WxAy", help=f"by default {' '.join(BITS)}")
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), metavar="NAME", help="none: ablations alone")
    parser.add_argument(
        "--ablations",
        nargs="*",
        metavar="GROUP",
        help=f"of {', '.join(ABLATIONS)}, without a name all of them; at {' and '.join(ABLATION_BITS)}",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of calibration; 0 runs int8 as well")
    parser.add_argument("--calib", type=int, default=32, metavar="N", help="calibration images (%(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="test on the first N images only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--force", action="store_true", help="measure again what the results hold already")
    return parser


if __name__ == "__main__":
    main()
