"""``fxquant predict FILE IMAGE...``: what a saved classifier says of images, as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxquant.checkpoint.staged_graph import StagedGraph
from fxquant.cli.preprocessing import add_preprocessing_options
from fxquant.cli.saved import is_saved, load_saved, saved_data_config
from fxquant.cli.shared_options import start_run
from fxquant.data.batches import read_images
from fxquant.data.data_config import DataConfig
from fxquant.data.pixels import image_mode
from fxquant.distributed import resolve_device
from fxquant.errors import InputError
from fxquant.files import write_json
from fxquant.graph.inputs import moved
from fxquant.graph.meta import model_dtype
from fxquant.measurement.evaluation import logits_of
from fxquant.measurement.option_values import positive

DESCRIPTION = """
Classify image files by a model that fxquant saved, with the preprocessing and the class names that its file holds. The result
goes to the standard output as JSON: the likeliest classes of each image with their probabilities.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.set_defaults(run=run)
    parser.add_argument(
        "model", metavar="FILE", help="written by fxquant.save, fxquant quantize or fxquant eval --save"
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image file")
    parser.add_argument("--top-k", type=positive, default=5, metavar="K", help="classes of each image (%(default)s)")
    add_preprocessing_options(parser)
    group = parser.add_argument_group("machine")
    group.add_argument("--batch-size", type=positive, default=64, metavar="N", help="images per batch (%(default)s)")
    group.add_argument("--device", default="cpu", help="such as cpu or cuda (%(default)s)")
    group.add_argument("--threads", type=positive, metavar="N", help="CPU threads (torch's default)")
    group.add_argument("--json", type=Path, metavar="F", help="write the result to this file instead")
    parser.set_defaults(seed=0)


def run(options: argparse.Namespace) -> None:
    """Print what the model says of the images, or write it to a file."""
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
    if options.json:
        write_json(options.json, result)
    else:
        print(json.dumps(result, indent=2, ensure_ascii=False))


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
