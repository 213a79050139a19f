"""
How fast is a converted ViT beside the float model: fp32, bf16 and int8, eager and compiled.

Run ``python bench/latency.py`` for the whole table: it writes ``bench/results/latency.json`` and puts its table into
README.md. Cells that are measured replace those of the file, the others stay. ``pytest bench/latency.py`` runs a small cell
through pytest-benchmark. On a busy machine, let it run alone, or with one thread.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from harness import RESULTS, Competitor, measure, summarize, write_results
from latency_table import update_readme
from torch import nn

import fxquant

MODELS = ("vit_base_patch16_224", "deit_small_patch16_224", "swin_tiny_patch4_window7_224")
BATCHES = (1, 8)


@dataclass(frozen=True)
class Form:
    """One form of a model. A converted one computes everything but its int8 products in `dtype`."""

    dtype: torch.dtype
    int8: bool = False
    compiled: bool = False


FORMS = {
    "fp32": Form(torch.float32),
    "fp32 compile": Form(torch.float32, compiled=True),
    "bf16": Form(torch.bfloat16),
    "bf16 compile": Form(torch.bfloat16, compiled=True),
    "int8": Form(torch.float32, int8=True),
    "int8 compile": Form(torch.float32, int8=True, compiled=True),
    "int8 bf16": Form(torch.bfloat16, int8=True),
    "int8 bf16 compile": Form(torch.bfloat16, int8=True, compiled=True),
}


def build(model_name: str, batch: int, form: Form, **options: Any) -> Competitor:
    """Return a call of a freshly built model with random weights, the same for every form, on a random batch."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(model_name, **options).eval()
    size = tuple(timm.data.resolve_model_data_config(model)["input_size"])
    if "img_size" in options:
        size = (size[0], options["img_size"], options["img_size"])
    model, images = model.to(form.dtype), torch.randn(batch, *size).to(form.dtype)
    if form.int8:
        prepared = fxquant.prepare(model, fxquant.recipe("minmax"), images[:1])
        converted = fxquant.convert(fxquant.calibrate(prepared, [images], progress=False))
        model = fxquant.compile(converted) if form.compiled else converted
    elif form.compiled:
        model = torch.compile(model)  # type: ignore[assignment]

    def run() -> Any:
        with torch.no_grad():
            return model(images)

    return run


def run_cell(model_name: str, batch: int, rounds: int, names: list[str]) -> dict[str, Any]:
    """Measure one model at one batch size; nothing of it stays in memory."""
    torch.compiler.reset()
    gc.collect()
    competitors = {name: build(model_name, batch, FORMS[name]) for name in names}
    timings = measure(competitors, rounds, f"{model_name} batch {batch}")
    return {
        "model": model_name,
        "batch": batch,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),  # processes that wanted to run: near the number of threads if alone
        "results": summarize(timings, batch),
    }


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_latency(benchmark: Any, name: str) -> None:
    """Time one form of a small ViT with pytest-benchmark."""
    benchmark(build("vit_tiny_patch16_224", 1, FORMS[name], img_size=64, depth=2))


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="only forms whose name holds this, such as int8; writes no file")
    parser.add_argument("--readme", action="store_true", help="measure nothing, only copy the table into README.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cells = [] if options.readme else [(m, b) for m in options.models for b in options.batch]
    names = [name for name in FORMS if options.only in name]
    for model_name, batch in cells:
        row = run_cell(model_name, batch, options.rounds, names)
        for name, result in row["results"].items():
            print(f"{model_name}  batch {batch}  {name:18}{result['median_ms']:10.1f} ms", flush=True)
        if not options.only:
            _merge(row)
    if not options.only:
        update_readme()


def _merge(row: dict[str, Any]) -> None:
    file = RESULTS / "latency.json"
    known = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    rows = {(r["model"], r["batch"]): r for r in [*known, row]}
    order = {cell: i for i, cell in enumerate((m, b) for m in MODELS for b in BATCHES)}
    ordered = sorted(rows.values(), key=lambda r: order.get((r["model"], r["batch"]), len(order)))
    write_results("latency", ordered, recipe="minmax W8A8, one random batch", seed=0)


if __name__ == "__main__":
    main()
