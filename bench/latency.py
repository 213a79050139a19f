"""
How fast is a converted ViT beside the float model: fp32, bf16 and int8, eager and compiled.

Run ``python bench/latency.py`` for the whole table, written to ``bench/results/latency.json``, or
``pytest bench/latency.py`` for one small cell through pytest-benchmark. ``--readme`` copies the table of the JSON file into
README.md.
"""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from harness import RESULTS, Competitor, measure, summarize, write_results
from torch import Tensor, nn

import fxquant

MODELS = ("vit_base_patch16_224", "deit_small_patch16_224", "swin_tiny_patch4_window7_224")
BATCHES = (1, 8)
README = Path(__file__).parents[1] / "README.md"
MARKERS = ("<!-- latency:begin -->", "<!-- latency:end -->")
SHOWN = ("fp32 compile", "bf16 compile", "int8 eager", "int8 compile")


def build(model_name: str, batch: int, **options: Any) -> dict[str, Competitor]:
    """Return the competitors of one cell: one model with the same random weights in every form."""
    torch.manual_seed(0)
    model = timm.create_model(model_name, **options).eval()
    size = tuple(timm.data.resolve_model_data_config(model)["input_size"])
    if "img_size" in options:
        size = (size[0], options["img_size"], options["img_size"])
    images = torch.randn(batch, *size)
    forms: dict[str, tuple[nn.Module, Tensor]] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        typed = timm.create_model(model_name, **options).eval()
        typed.load_state_dict(model.state_dict())
        forms[name] = (typed.to(dtype), images.to(dtype))
    for name, like in (("int8", "fp32"), ("int8 bf16 stream", "bf16")):
        typed, typed_images = forms[like]
        prepared = fxquant.prepare(typed, fxquant.recipe("minmax"), typed_images[:1])
        fxquant.calibrate(prepared, [typed_images], progress=False)
        forms[name] = (fxquant.convert(prepared), typed_images)
    competitors: dict[str, Competitor] = {}
    for name, (form, inputs) in forms.items():
        compiled = fxquant.compile(form) if name.startswith("int8") else torch.compile(form)  # type: ignore[arg-type]
        competitors[f"{name} eager"] = _call(form, inputs)
        competitors[f"{name} compile"] = _call(compiled, inputs)
    return competitors


def run_cell(model_name: str, batch: int, rounds: int) -> dict[str, Any]:
    """Measure one model at one batch size."""
    torch.compiler.reset()
    timings = measure(build(model_name, batch), rounds, f"{model_name} batch {batch}")
    gc.collect()
    return {"model": model_name, "batch": batch, "rounds": rounds, "results": summarize(timings, batch)}


def render(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table of README: milliseconds per image, and int8 under compile against each float form."""
    lines = [
        "| model | batch | "
        + " | ".join(f"{name}, ms/image" for name in SHOWN)
        + " | int8 compile vs fp32 compile | vs bf16 compile |",
        "| --- | --- | " + "--- | " * (len(SHOWN) + 2),
    ]
    for row in rows:
        results = row["results"]
        cells = [f"{results[name]['ms_per_image']:.1f}" for name in SHOWN]
        faster = results["int8 compile"]["times_faster_than"]
        ratios = [f"{faster['fp32 compile']:.2f}x", f"{faster['bf16 compile']:.2f}x"]
        lines.append(" | ".join([f"| {row['model']}", str(row["batch"]), *cells, *ratios]) + " |")
    return "\n".join(line.rstrip() for line in lines)


def update_readme() -> None:
    """Put the table of ``bench/results/latency.json`` between the markers of README.md."""
    data = json.loads((RESULTS / "latency.json").read_text(encoding="utf-8"))
    environment = data["environment"]
    note = (
        f"\n{environment['processor']}, {environment['threads']} threads, {environment['cpu_capability']}, torch "
        f"{environment['torch']}, {data['date'][:10]}; medians of interleaved rounds.\n"
    )
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    README.write_text(f"{before}{MARKERS[0]}\n{render(data['rows'])}\n{note}{MARKERS[1]}{after}", encoding="utf-8")


@pytest.mark.parametrize("name", ["fp32 eager", "int8 eager"])
def test_latency(benchmark: Any, name: str) -> None:
    """Time one form of a small ViT with pytest-benchmark."""
    benchmark(build("vit_tiny_patch16_224", 1, img_size=64, depth=2)[name])


def _call(module: nn.Module, inputs: Tensor) -> Competitor:
    def run() -> Any:
        with torch.no_grad():
            return module(inputs)

    return run


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--readme", action="store_true", help="only copy the measured table into README.md")
    options = parser.parse_args()
    if options.readme:
        update_readme()
        return
    rows: list[dict[str, Any]] = []
    for model_name in options.models:
        for batch in options.batch:
            rows.append(run_cell(model_name, batch, options.rounds))
            print(render(rows[-1:]).splitlines()[-1], flush=True)
            file = write_results("latency", rows, recipe="minmax W8A8, one random batch", seed=0)
    print(f"written to {file}")


if __name__ == "__main__":
    main()
