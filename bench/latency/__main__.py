"""
How fast is a converted ViT beside what else could run it: float in torch, and the int8 of other engines.

Run ``python -m bench.latency`` for the whole table: it writes ``bench/results/latency.json`` and the tables that are made
of it. Cells that are measured replace those of the file, the others stay. It measures as ``fxquant bench`` does, which is
the way to measure any other model. ``pytest bench/latency/__main__.py`` runs a small cell through pytest-benchmark. On a
busy machine, let it run alone, or with one thread.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from collections.abc import Sequence
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import fxquant
from bench.harness.results import RESULTS, write_results
from bench.latency.table import FORMAT
from bench.tables import write_pages
from fxquant.benchmark.competitor import Competitor
from fxquant.benchmark.competitors import BASELINE, COMPETITORS
from fxquant.benchmark.run_engines import run_batch, select_competitors
from fxquant.benchmark.subject import Subject

MODELS = ("vit_base_patch16_224", "deit_small_patch16_224", "swin_tiny_patch4_window7_224")
BATCHES = (1, 8)
RECIPE = "minmax"
CALIBRATION_IMAGES = 32


def make_subject(model_name: str, batch: int, **options: Any) -> tuple[Subject, Tensor]:
    """Return a model with random weights and a random batch ``(B, 3, H, W)``; options are those of `timm.create_model`."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(model_name, **options).eval()
    size = tuple(timm.data.resolve_model_data_config(model)["input_size"])
    if "img_size" in options:
        size = (size[0], options["img_size"], options["img_size"])
    calibration, images = torch.randn(CALIBRATION_IMAGES, *size), torch.randn(batch, *size)
    return Subject(model, calibration, fxquant.recipe(RECIPE)), images


def run_cell(
    model_name: str, batch: int, rounds: int, competitors: Sequence[Competitor], **options: Any
) -> dict[str, Any]:
    """Measure one model at one batch size; nothing of it stays in memory."""
    gc.collect()
    subject, images = make_subject(model_name, batch, **options)
    outcomes = run_batch(subject, images, competitors, rounds, f"{model_name} batch {batch}")
    return {
        "model": model_name,
        "batch": batch,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),  # processes that wanted to run: near the number of threads if alone
        "results": {outcome.name: outcome.as_json(batch) for outcome in outcomes},
    }


@pytest.mark.parametrize("name", ["fp32", "fxquant"])
def test_latency(benchmark: Any, name: str) -> None:
    """Time one form of a small ViT with pytest-benchmark."""
    subject, images = make_subject("vit_tiny_patch16_224", 1, img_size=64, depth=2)
    competitor = next(c for c in COMPETITORS if c.name == name)
    benchmark(competitor.build(subject, images).run)


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
            _merge(row)
    if not options.competitors:
        write_pages()


def _shown(result: dict[str, Any]) -> str:
    time = "" if result["p50_ms"] is None else f"{result['p50_ms']:10.1f} ms"
    return "  ".join(filter(None, (time, result["reason"])))


def _merge(row: dict[str, Any]) -> None:
    file = RESULTS / "latency.json"
    data = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    known = data["rows"] if data.get("format") == FORMAT else []  # other columns cannot stand in one table
    rows = {(r["model"], r["batch"]): r for r in [*known, row]}
    order = {cell: i for i, cell in enumerate((m, b) for m in MODELS for b in BATCHES)}
    ordered = sorted(rows.values(), key=lambda r: order.get((r["model"], r["batch"]), len(order)))
    recipe = f"{RECIPE} W8A8, {CALIBRATION_IMAGES} random images"
    write_results("latency", ordered, format=FORMAT, recipe=recipe, seed=0, baseline=BASELINE.name)


if __name__ == "__main__":
    main()
