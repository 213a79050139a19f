"""What ``bench.latency`` measures: each model at each batch size, all engines interleaved."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

import fxquant
from bench.harness.results import Row, RowsFile
from bench.latency.table import FORMAT
from fxquant.benchmark.competitor import Competitor
from fxquant.benchmark.competitors import BASELINE
from fxquant.benchmark.run_engines import run_batch
from fxquant.benchmark.subject import Subject

MODELS = ("vit_base_patch16_224", "deit_small_patch16_224", "swin_tiny_patch4_window7_224")
BATCHES = (1, 8)
RECIPE = "minmax"
CALIBRATION_IMAGES = 32
_ORDER = [(model, batch) for model in MODELS for batch in BATCHES]
_RECIPE = f"{RECIPE} W8A8, {CALIBRATION_IMAGES} random images"


def _place(row: Row) -> int:
    cell = (row["model"], row["batch"])
    return _ORDER.index(cell) if cell in _ORDER else len(_ORDER)


ROWS = RowsFile(
    "latency",
    ("model", "batch"),
    {"format": FORMAT, "recipe": _RECIPE, "seed": 0, "baseline": BASELINE.name},
    _place,
)


def make_subject(model_name: str, batch: int, **options: Any) -> tuple[Subject, Tensor]:
    """Return a model with random weights and a random batch ``(B, 3, H, W)``; options are those of `timm.create_model`."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(model_name, **options).eval()
    size = tuple(timm.data.resolve_model_data_config(model)["input_size"])
    if "img_size" in options:
        size = (size[0], options["img_size"], options["img_size"])
    calibration, images = torch.randn(CALIBRATION_IMAGES, *size), torch.randn(batch, *size)
    return Subject(model, calibration, fxquant.recipe(RECIPE)), images


def run_cell(model_name: str, batch: int, rounds: int, competitors: Sequence[Competitor], **options: Any) -> Row:
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
