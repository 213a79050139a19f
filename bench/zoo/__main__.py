"""
Which transformers of timm, torchvision and Hugging Face work, and how much of each runs on int8.

``python -m bench.zoo`` walks a small variant of each, with random weights, a process each, and writes
``bench/results/zoo.json`` and ``docs/zoo.md``. Rows that are there already are kept unless ``--fresh``.
"""

from __future__ import annotations

import argparse
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from bench.harness.results import ROOT, Row, RowsFile, read_results
from bench.zoo.entries import ENTRIES, TRANSFORMERS
from bench.zoo.entry import Entry
from bench.zoo.process import walk_in_process
from bench.zoo.table import render
from fxquant.files import write_atomically

DOCS = ROOT / "docs" / "zoo.md"
_LIBRARIES = ("timm", "torchvision", "transformers")


def main() -> None:
    """Walk the models from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=ENTRIES,
        metavar="SOURCE/FAMILY",
        help="walk these models, such as timm/ViT, whether or not they have a row",
    )
    parser.add_argument("--fresh", action="store_true", help="walk again what the results hold already")
    options = parser.parse_args()
    file = _rows_file()
    present = {_key(row) for row in file.read()}
    for key, entry in ENTRIES.items():
        wanted = key in options.only if options.only else options.fresh or key not in present
        if wanted and _is_installed(entry):
            row = walk_in_process(entry)
            print(key, row.get("stopped") or f"int8 {row['coverage']:.1%}", flush=True)
            file.add(row)
            _write_page(file)
    _write_page(file)


def _is_installed(entry: Entry) -> bool:
    return entry.source != TRANSFORMERS or find_spec(TRANSFORMERS) is not None


def _rows_file() -> RowsFile:
    order = {key: index for index, key in enumerate(ENTRIES)}
    facts = {
        "format": 2,
        "recipe": "omse W8A8, two batches of two random images",
        "seed": 0,
        "libraries": _versions(),
    }
    return RowsFile("zoo", ("source", "family"), facts, lambda row: order.get(_key(row), len(order)))


def _key(row: Row) -> str:
    return f"{row['source']}/{row['family']}"


def _versions() -> dict[str, str]:
    """Return the versions of the libraries, as they were where one is not installed any more."""
    found: dict[str, str] = dict(read_results("zoo").get("libraries", {}))
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _write_page(file: RowsFile) -> None:
    DOCS.parent.mkdir(exist_ok=True)
    page = render(file.read(), file.facts["libraries"])
    write_atomically(DOCS, lambda name: Path(name).write_text(page, encoding="utf-8"))


if __name__ == "__main__":
    main()
