"""
Treat files, models and processes badly, and count what comes of it.

Run ``python -m bench.robustness`` to write ``bench/results/robustness.json`` and the table of ``docs/robustness.md``. Each case
runs in a process of its own with one thread; a case that was measured before is kept, unless ``--only`` names it. ``--quick``
tries each a few times, prints the rows and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.harness.processes import row_of
from bench.harness.results import Row, RowsFile
from bench.robustness.cases import CASES, Case
from bench.robustness.others import other_rows
from bench.tables import write_pages
from fxquant.progress import track


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("--only", nargs="+", choices=names, metavar="CASE", help=f"some of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="try each a few times and write nothing")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (%(default)s)")
    parser.add_argument("--case", choices=names, help="run this one in this process and print its row")
    parser.add_argument("--tries", type=int, help="how often (as many as the case says)")
    options = parser.parse_args(arguments)
    if options.case:
        print(json.dumps(run_case(_named(options.case), options.tries, options.seed)))
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    order = [*names, "fuzz", "operators"]
    file = RowsFile("robustness", ("case",), order=lambda row: order.index(row["case"]))
    known = set() if options.quick else {row["case"] for row in file.read()}
    asked = [case for case in CASES if (case.name in options.only if options.only else case.name not in known)]
    for case in track(asked, "robustness", "case"):
        tries = options.tries or (case.quick if options.quick else case.tries)
        if not tries:
            continue
        row = row_of("bench.robustness", "--case", case.name, "--tries", str(tries), "--seed", str(options.seed))
        print(json.dumps(row), flush=True)
        if not options.quick:
            file.add(row)
    if not options.quick:
        file.add(*other_rows())
        write_pages()


def run_case(case: Case, tries: int | None, seed: int) -> Row:
    """Return the row of a case, run in this process in a folder of its own."""
    tries = tries or case.tries
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        outcomes = case.run(tries, seed, Path(name))
    seconds = round(time.perf_counter() - began, 1)
    return {"case": case.name, "text": case.text, "tried": tries, "seed": seed, "seconds": seconds, **outcomes.as_row()}


def _named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


if __name__ == "__main__":
    main()
