"""
How long a model takes to become int8, and how much memory that takes beside the float model.

Each model runs in a process of its own, so that its peak memory is its own. Calibration is one batch of the minmax recipe,
which `bench.calibration` measures for those that search.

    python -m bench.startup [--models ...] [--threads 1]      # adds to bench/results/startup.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

import timm
import torch

import fxquant
from bench.harness.processes import row_of
from bench.harness.results import RowsFile
from fxquant.benchmark.memory import held_bytes, peak_bytes
from fxquant.measurement.experiment import count_bytes

MODELS = ("vit_base_patch16_224", "vit_large_patch16_224")
ROWS = RowsFile("startup", ("model", "threads"), {"recipe": "minmax W8A8, two random images", "seed": 0})
T = TypeVar("T")


class Stages:
    """Seconds, and bytes by which the process grew at the peak, of one stage after another."""

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, Any]] = {}

    def run(self, name: str, function: Callable[[], T]) -> T:
        """Run a stage and note its figures."""
        results: list[T] = []
        seconds: list[float] = []

        def timed() -> None:
            start = time.perf_counter()
            results.append(function())
            seconds.append(time.perf_counter() - start)

        device = torch.device("cpu")
        before, peak = held_bytes(device), peak_bytes(timed, device)
        if not results:  # the peak cannot be told here
            timed()
        grown = max(peak - before, 0) if peak is not None and before is not None else None
        self.figures[name] = {"seconds": round(seconds[0], 3), "peak_bytes": grown}
        return results[0]


def measure_model(name: str, threads: int, **options: Any) -> dict[str, Any]:
    """Trace, prepare, calibrate and convert a model of random weights in this process; options are timm's."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = timm.create_model(name, **options).eval()
    size = options.get("img_size", timm.data.resolve_model_data_config(model)["input_size"][-1])
    images, stages = torch.randn(2, 3, size, size), Stages()
    gm = stages.run("trace", lambda: fxquant.trace(model, images))
    prepared = stages.run("prepare", lambda: fxquant.prepare(gm, fxquant.recipe("minmax"), images))
    stages.run("calibrate", lambda: fxquant.calibrate(prepared, [images], progress=False))
    converted = stages.run("convert", lambda: fxquant.convert(prepared))
    float_bytes, peak = count_bytes(model), stages.figures["convert"]["peak_bytes"]
    return {
        "model": name,
        "options": options,
        "threads": threads,
        "stages": stages.figures,
        "seconds_without_calibration": round(
            sum(f["seconds"] for stage, f in stages.figures.items() if stage != "calibrate"), 3
        ),
        "float_bytes": float_bytes,
        "int8_bytes": count_bytes(converted),
        "convert_peak_over_float": None if peak is None else round(peak / float_bytes, 3),
    }


def main() -> None:
    """Measure each model in a process of its own and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model:
        print(json.dumps(measure_model(options.model, options.threads)))
        return
    for name in options.models:
        row = row_of("bench.startup", "--model", name, "--threads", str(options.threads))
        print(
            f"{name}: {row['seconds_without_calibration']:.1f} s to trace, prepare and convert; convert grows by "
            f"{row['convert_peak_over_float']} times the float model",
            flush=True,
        )
        ROWS.add(row)


if __name__ == "__main__":
    main()
