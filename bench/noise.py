"""
What a noisy bias costs at run time: the same int8 model with noise and without.

Run ``python -m bench.noise`` to write ``bench/results/noise.json``. The noise folds into the layer norm before a layer, or into
the quantisation of its input, which eagerly is one more addition, and its correction into the bias.
"""

from __future__ import annotations

import argparse
from typing import Any

import timm
import torch
from torch import nn

import fxquant
from bench.harness.results import write_results
from bench.harness.timing import Competitor, measure, summarize

MODELS = ("deit_small_patch16_224", "swin_tiny_patch4_window7_224")
FORMS: dict[str, dict[str, Any]] = {
    "without noise": {"mean": False, "range": False},
    "with noise": {"noise": "uniform"},
}


def build(model_name: str, batch: int, options: dict[str, Any], compiled: bool) -> Competitor:
    """Return a call of an int8 model with random weights, calibrated on two random images, on a random batch."""
    torch.manual_seed(0)
    source = timm.create_model(model_name).eval()
    images = torch.randn(batch, *timm.data.resolve_model_data_config(source)["input_size"])
    prepared = fxquant.prepare(source, fxquant.recipe("noisyquant", max_rows=256, **options), images[:1])
    converted = fxquant.convert(fxquant.calibrate(prepared, [images[:2]], progress=False))
    model: nn.Module = fxquant.compile(converted) if compiled else converted

    def run() -> Any:
        with torch.no_grad():
            return model(images)

    return run


def main() -> None:
    """Measure all models, eager and compiled, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.models:
        for compiled in (False, True):
            torch.compiler.reset()
            competitors = {form: build(name, options.batch, given, compiled) for form, given in FORMS.items()}
            results = summarize(measure(competitors, options.rounds, name), options.batch)
            facts = {"model": name, "batch": options.batch, "compiled": compiled, "threads": options.threads}
            rows.append(facts | {"rounds": options.rounds, "results": results})
            ratio = results["with noise"]["times_faster_than"]["without noise"]
            print(f"{name} {'compiled' if compiled else 'eager'}: with noise {ratio:.3f} times as fast", flush=True)
            write_results("noise", rows, recipe="noisyquant W8A8, two random images", seed=0)


if __name__ == "__main__":
    main()
