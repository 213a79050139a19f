"""
How long calibration takes, and how much memory, against a search over the whole published grid.

Each cell runs in a process of its own, so that its peak memory is its own. `published` tries every candidate of the
published grid in turn, with this project's own arithmetic; the default tries part of a grid and compares by squared error.

    python -m bench.calibration [--cells ...] [--threads 1]      # adds to bench/results/calibration.json
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

import fxquant
from bench.harness.processes import peak_mib, row_of
from bench.harness.results import RowsFile

ROWS = RowsFile("calibration", ("setting", "recipe", "form", "threads"), {"bits": "W8A8"})
RECIPES = ("base_ptq", "ptq4vit", "noisyquant", "noisyquant_ptq4vit")


@dataclass(frozen=True)
class TimedModel:
    """A model with random weights and how many images it is calibrated with. forms: also as published, or only by default."""

    model: str
    options: dict[str, Any]
    images: int
    size: int
    forms: tuple[str, ...] = ("default", "published")


SETTINGS = {
    "vit_tiny_64px_depth3": TimedModel("vit_tiny_patch16_224", {"img_size": 64, "depth": 3}, 32, 64),
    "vit_tiny_64px_depth12": TimedModel("vit_tiny_patch16_224", {"img_size": 64}, 32, 64),
    "vit_base_224px": TimedModel("vit_base_patch16_224", {}, 128, 224, ("default",)),
}


def main() -> None:
    """Measure the cells that were asked for and write them."""
    parser = argparse.ArgumentParser(description="Time calibration by recipe, in the published form and by default.")
    parser.add_argument(
        "--cells", nargs="+", metavar="SETTING/RECIPE/FORM", help="such as vit_base_224px/ptq4vit/default"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(run_cell(options.cell, options.threads)))
        return
    for cell in options.cells or all_cells():
        row = row_of("bench.calibration", "--cell", cell, "--threads", str(options.threads))
        print(f"{cell:48} {row['seconds']:9.1f} s {row['peak_mib']:8.0f} MiB", flush=True)
        ROWS.add(row)


def all_cells() -> list[str]:
    """Return the names of all cells."""
    return [f"{name}/{r}/{form}" for name, setting in SETTINGS.items() for r in RECIPES for form in setting.forms]


def run_cell(cell: str, threads: int) -> dict[str, Any]:
    """Calibrate in this process and return the seconds and the peak resident memory before and after, in MiB."""
    torch.set_num_threads(threads)
    name, recipe, form = cell.split("/")
    setting = SETTINGS[name]
    model = build_model(setting)
    images = torch.randn(setting.images, 3, setting.size, setting.size, generator=torch.Generator().manual_seed(0))
    batches = list(images.split(32))
    config = fxquant.recipe(recipe, published=form == "published")
    prepared = fxquant.prepare(model, config, batches[0][:1])
    before = peak_mib()
    start, cpu = time.perf_counter(), time.process_time()
    fxquant.calibrate(prepared, batches, progress=False)
    return {
        "setting": name,
        "recipe": recipe,
        "form": form,
        "images": setting.images,
        "threads": threads,
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_mib": round(peak_mib()),
        "peak_before_mib": round(before),
    }


def build_model(setting: TimedModel) -> nn.Module:
    """Return the model, the same random weights each time."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(setting.model, **setting.options)
    return model.eval()


if __name__ == "__main__":
    main()
