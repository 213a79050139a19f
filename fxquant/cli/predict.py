"""``fxquant predict FILE IMAGE...``: what a saved classifier says of images, as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxquant.checkpoint.staged_graph import StagedGraph
from fxquant.cli.resolve import start_run
from fxquant.cli.saved import is_saved, load_saved, saved_data_config
from fxquant.data.batches import read_images
from fxquant.data.data_config import DataConfig
from fxquant.data.pixels import image_mode
from fxquant.distributed import resolve_device
from fxquant.errors import InputError
from fxquant.files import write_json
from fxquant.graph.inputs import moved
from fxquant.graph.meta import model_dtype
from fxquant.precision.logits import logits_of


def run(options: argparse.Namespace) -> None:
    """Write what the model says of the images, to the standard output unless a file was asked for."""
    start_run(options)
    if not is_saved(options.model):
        raise InputError(f"expected a .safetensors file of fxquant quantize, got {options.model!r}")
    _refuse_missing(options.images)
    device = resolve_device(options.device)
    gm = load_saved(options.model, device)
    config = saved_data_config(gm, options)
    image_mode(config.input_size[0])  # which raises where files have no such channels
    if gm.card.num_classes == 0:
        raise InputError(
            f"expected a classifier, {options.model} gives features: run it from Python, fxquant.load(FILE)(images)"
        )
    found = [
        _described(image, row, gm.class_names, options.top_k)
        for files in _chunks(options.images, options.batch_size)
        for image, row in zip(files, _probabilities(gm, files, config, device), strict=True)
    ]
    result = {"model": gm.card.model, "file": options.model, "data_config": asdict(config), "predictions": found}
    write_json(options.json, result)


def _refuse_missing(images: Sequence[Path]) -> None:
    for image in images:
        if not image.is_file():
            raise InputError(
                f"expected an image file, {str(image)!r} {'is a folder' if image.is_dir() else 'does not exist'}"
            )


def _chunks(images: Sequence[Path], size: int) -> list[Sequence[Path]]:
    return [images[start : start + size] for start in range(0, len(images), size)]


def _probabilities(gm: StagedGraph, files: Sequence[Path], config: DataConfig, device: torch.device) -> Tensor:
    """Return the probabilities ``(B, classes)`` of the images in `files`."""
    images = moved(read_images(files, config), device, model_dtype(gm))
    with torch.no_grad():
        logits = logits_of(gm(images), "predict")
    if gm.class_names and len(gm.class_names) != logits.shape[1]:
        raise InputError(f"the file names {len(gm.class_names)} classes, its model gives {logits.shape[1]} logits")
    return logits.softmax(1)


def _described(image: Path, probabilities: Tensor, names: Sequence[str], count: int) -> dict[str, Any]:
    best = probabilities.topk(min(count, len(probabilities)))
    classes = [
        {"index": index, "name": names[index] if names else None, "probability": round(probability, 6)}
        for index, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return {"image": str(image), "classes": classes}
