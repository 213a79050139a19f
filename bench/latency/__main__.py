"""
How fast is a converted ViT beside what else could run it: float in torch, and the int8 of other engines.

Run ``python -m bench.latency`` for the whole table, models by batch and threads: it writes ``bench/results/latency.json`` and
the tables that are made of it. ``--isa avx2 avx_vnni avx512`` holds the libraries to older instructions. Every cell has a
process of its own and is written as soon as it is measured. A run that was stopped goes on where it was: what the same commit
measured is not measured again, unless with ``--again``. It measures as ``fxquant bench`` does, which is the way to measure any
other model. ``pytest bench/latency`` runs a small cell through pytest-benchmark. Let it run alone on its machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os

from bench.harness.results import Row
from bench.latency.cells import BATCHES, MODELS, ROWS, LatencyCell, find_measured, measure_cell, measure_in_process
from bench.latency.isas import ISAS, NATIVE
from bench.latency.table import ENGINES
from bench.tables import write_pages
from fxquant.benchmark.run_engines import select_competitors


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--isa", nargs="+", choices=ISAS, default=[NATIVE])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--minutes", type=float, default=15, help="of a cell, after three rounds (%(default)s)")
    parser.add_argument("--again", action="store_true", help="also what this commit has measured")
    parser.add_argument(
        "--competitors", nargs="+", default=[], help="these in place of those of the tables; writes no file"
    )
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    competitors = select_competitors(
        options.competitors or ENGINES
    )  # refuses unknown names before anything is measured
    if options.cell:
        cell = LatencyCell(**json.loads(options.cell))
        print(json.dumps(measure_cell(cell, options.rounds, competitors, 60 * options.minutes)))
        return
    failed = [str(cell) for cell in _cells(options) if not _measure(cell, options)]
    if not options.competitors:
        write_pages()
    if failed:
        raise SystemExit("not measured: " + "; ".join(failed))


def _cells(options: argparse.Namespace) -> list[LatencyCell]:
    wanted = itertools.product(options.isa, options.models, options.batch, options.threads)
    return [LatencyCell(model, batch, threads, isa) for isa, model, batch, threads in wanted]


def _measure(cell: LatencyCell, options: argparse.Namespace) -> bool:
    """Measure a cell, print and write it, and say whether it could be measured."""
    print(cell, flush=True)
    writes = not options.competitors
    if writes and not options.again and find_measured(cell, options.rounds):
        print("  measured before, at this commit")
        return True
    try:
        row = measure_in_process(cell, options.rounds, options.competitors or ENGINES, 60 * options.minutes)
    except SystemExit as error:
        print(error, flush=True)
        return False
    for name, result in row["results"].items():
        print(f"  {name:21}{_shown(result)}", flush=True)
    if writes:
        ROWS.add(row)
    return True


def _shown(result: Row) -> str:
    time = "" if result["p50_ms"] is None else f"{result['p50_ms']:10.1f} ms"
    return "  ".join(filter(None, (time, result["reason"])))


if __name__ == "__main__":
    main()
