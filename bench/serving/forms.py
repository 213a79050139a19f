"""The files that are served, int8 and bfloat16, the images that are sent, and what the models say of them offline."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, fx, nn

import fxquant
from fxquant.data import DataConfig, read_images, resolve_data_config
from fxquant.graph.meta import card_of, model_dtype, set_card

IMAGES = 64
_SPREAD = 20  # of the logits: those of random weights are so near one another that images would be taken for others
RECIPE = "minmax"


def _quantised(model: nn.Module, images: Tensor) -> fx.GraphModule:
    return fxquant.quantize(model, [images], RECIPE, progress=False)


FORMS: dict[str, Callable[[nn.Module, Tensor], fx.GraphModule]] = {"bf16": fxquant.trace, "int8": _quantised}


def write_model(name: str, form: str, folder: Path) -> Path:
    """Save a model of timm with random weights, in bfloat16 but for what is int8, and return its file."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval().to(torch.bfloat16)
    with torch.no_grad():
        model.get_classifier().weight.mul_(_SPREAD)
    config: DataConfig = resolve_data_config(model)
    gm = FORMS[form](model, torch.randn(8, *config.input_size).to(torch.bfloat16))
    set_card(gm, replace(card_of(gm), model=name, data_config=config))
    file = folder / f"{name}_{form}.safetensors"
    fxquant.save(gm, file)
    return file


def make_images(count: int = IMAGES, size: int = 224) -> list[bytes]:
    """Return small JPEG files of coloured clouds, no two alike."""
    draw, files = np.random.default_rng(0), []
    for _ in range(count):
        file = io.BytesIO()
        grid = draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC).save(file, "jpeg", quality=80)
        files.append(file.getvalue())
    return files


def predict_offline(file: Path, images: Sequence[bytes]) -> Tensor:
    """Return the probabilities ``(B, classes)`` of images, each alone in its batch, by the compiled model in `file`."""
    model = fxquant.compile(file)
    config, dtype = model.card.data_config, model_dtype(model.graph_module)
    assert config is not None
    rows = [model(read_images([io.BytesIO(image)], config).to(dtype)) for image in images]
    return torch.cat(rows).float().softmax(1)
