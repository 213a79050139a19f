"""
How fast is a converted ViT beside what else could run it: float in torch, and the int8 of other engines.

Run ``python -m bench.latency`` for the whole table: it writes ``bench/results/latency.json`` and the tables that are made
of it. Cells that are measured replace those of the file, the others stay. It measures as ``fxquant bench`` does, which is
the way to measure any other model. ``pytest bench/latency`` runs a small cell through pytest-benchmark. On a busy
machine, let it run alone, or with one thread.
"""

from __future__ import annotations

import argparse

import torch

from bench.harness.results import Row
from bench.latency.cells import BATCHES, MODELS, ROWS, run_cell
from bench.tables import write_pages
from fxquant.benchmark.run_engines import select_competitors


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--competitors", nargs="+", default=[], help="only these; writes no file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cells = [(m, b) for m in options.models for b in options.batch]
    competitors = select_competitors(options.competitors)
    for model_name, batch in cells:
        row = run_cell(model_name, batch, options.rounds, competitors)
        for name, result in row["results"].items():
            print(f"{model_name}  batch {batch}  {name:21}{_shown(result)}", flush=True)
        if not options.competitors:
            ROWS.add(row)
    if not options.competitors:
        write_pages()


def _shown(result: Row) -> str:
    time = "" if result["p50_ms"] is None else f"{result['p50_ms']:10.1f} ms"
    return "  ".join(filter(None, (time, result["reason"])))


if __name__ == "__main__":
    main()
