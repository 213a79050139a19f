"""Made-up figures of tiny models, and the command line on them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from bench.imagenet import jobs, measure
from bench.imagenet.__main__ import main
from bench.imagenet.figure import Figure, Model
from fxquant.models.timm_model import build_timm_model
from tests.support.folders import CLASSES, make_class

TINY = Model("tiny", "test_vit.r160_in1k", 0.0)
OTHER = Model("other", "test_vit2.r160_in1k", 0.0)
SEARCH = (("rounds", 1), ("steps", 4), ("max_rows", 32))


def figure(method: str, recipe: str, model: Model = TINY, **options: Any) -> Figure:
    """Return a made-up figure at six bits."""
    return Figure("ptq4vit", method, model, 6, 6, 99.0, 90.0, recipe, 4, "nobody", **options)


TINY_FIGURES = (figure("MinMax", "minmax", published=()), figure("BasePTQ", "base_ptq", options=SEARCH))


def make_images(root: Path) -> Path:
    """Write a folder of images of three classes and return it."""
    for hue, name in enumerate(CLASSES):
        make_class(root / "train" / name, 3, hue, seed=hue)
        make_class(root / "val" / name, 2, hue, seed=10 + hue)
    return root


def make_checkpoints(root: Path) -> Path:
    """Write the tiny model's weights and return the folder."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=3).state_dict(), root / f"{TINY.tag}.safetensors")
    return root


def publish(figures: tuple[Figure, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `figures` be all that was published, of models with three classes, measured by one process."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jobs, "FIGURES", figures)
    monkeypatch.setattr(measure, "build_timm_model", partial(build_timm_model, num_classes=3))


def call_on(data: Path, weights: Path, results: Path, *arguments: object) -> int:
    """Call the command line; it writes ``out.json`` in the folder `results`."""
    paths = ["--data", data, "--checkpoints", weights, "--out", results / "out.json"]
    return main([*map(str, paths), "--workers", "0", *map(str, arguments)])


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of ``out.json`` by key."""
    rows: dict[str, dict[str, Any]] = json.loads((folder / "out.json").read_text())["rows"]
    return rows
