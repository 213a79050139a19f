"""
Which of timm's transformers trace, prepare, convert and run, and how much of each runs on int8.

``python -m bench.zoo`` walks one small variant of each family, with random weights, a process each, and writes
``bench/results/zoo.json`` and ``docs/zoo.md``. Rows that are there already are kept unless ``--fresh``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import timm

from bench.harness.results import ROOT, Row, read_results, write_results
from bench.zoo.entries import FAMILIES
from bench.zoo.table import render
from bench.zoo.walk import walk, walk_in_process
from fxquant.files import write_atomically

DOCS = ROOT / "docs" / "zoo.md"


def main() -> None:
    """Walk the families from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=FAMILIES,
        metavar="FAMILY",
        help="walk these families, whether or not they have a row",
    )
    parser.add_argument("--fresh", action="store_true", help="walk again what the results hold already")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(walk(options.one)))
        return
    rows: dict[str, Row] = read_results("zoo").get("rows", {})
    known = set(timm.list_models())  # an older timm has fewer
    for family, name in FAMILIES.items():
        wanted = family in options.only if options.only else options.fresh or family not in rows
        if wanted and name in known:
            rows[family] = walk_in_process(name)
            print(family, rows[family].get("stopped") or f"int8 {rows[family]['coverage']:.1%}", flush=True)
            _write(rows)
    _write(rows)


def _write(rows: dict[str, Row]) -> None:
    ordered = {family: rows[family] for family in FAMILIES if family in rows}
    write_results("zoo", ordered, recipe="default W8A8, four random images", seed=0)
    DOCS.parent.mkdir(exist_ok=True)
    page = render(ordered, timm.__version__)
    write_atomically(DOCS, lambda name: Path(name).write_text(page, encoding="utf-8"))


if __name__ == "__main__":
    main()
