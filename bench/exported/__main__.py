"""
Every recipe, and models of several libraries, exported to ONNX and run by ONNX Runtime and OpenVINO.

Run ``python -m bench.exported`` to write ``bench/results/exported.json`` and the tables of ``docs/export.md``.
"""

from __future__ import annotations

import argparse
import warnings
from importlib.metadata import version

import torch

import fxquant
from bench.exported.measure import Row, measure
from bench.exported.subjects import MODELS, small_vit
from bench.harness.results import read_results, write_results
from bench.tables import write_pages

ENGINES = ("onnx", "onnxruntime", "openvino")


def main(arguments: list[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", choices=("recipes", "models"), help="measure these alone; the others stay as they are"
    )
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known = read_results("exported")
    rows: list[Row] = known.get("rows", [])
    models: list[Row] = known.get("models", [])
    if options.only != "models":
        rows = [_shown("small ViT", measure(small_vit(), recipe)) for recipe in fxquant.recipes()]
    if options.only != "recipes":
        models = [_shown(name, measure(build(), "minmax")) for name, build in MODELS.items()]
    write_results("exported", rows, models=models, engines={name: version(name) for name in ENGINES})
    write_pages()


def _shown(name: str, row: Row) -> Row:
    print(name, row, flush=True)
    return {"model": name} | row


if __name__ == "__main__":
    main()
