"""The small models and images that are treated badly."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, fx, nn
from torch.utils.data import Dataset, default_collate

import fxquant
from fxquant.training import TrainingData

SIZE = 32


def float_model(width: int = 32, depth: int = 2) -> nn.Module:
    """Return a ViT of 17 tokens with 10 classes."""
    options = {"patch_size": 8, "embed_dim": width, "depth": depth, "num_heads": 2, "num_classes": 10}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model: nn.Module = timm.create_model("vit_tiny_patch16_224", img_size=SIZE, **options).eval()
    return model


def images(batch: int = 4, seed: int = 0) -> Tensor:
    """Return normal images ``(B, 3, 32, 32)``."""
    return torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def int8_model(recipe: str = "default", **size: int) -> fx.GraphModule:
    """Return the model calibrated and converted by a recipe."""
    prepared = fxquant.prepare(float_model(**size), fxquant.recipe(recipe), images())
    return fxquant.convert(fxquant.calibrate(prepared, [images(8)], progress=False))


class _Images(Dataset[Any]):
    """Images in memory, which get brighter by epoch."""

    collate = staticmethod(default_collate)

    def __init__(self, count: int = 12) -> None:
        self.pixels, self.epoch = images(count), 0

    def __len__(self) -> int:
        return len(self.pixels)

    def set_epoch(self, epoch: int) -> None:
        """Make the images those of `epoch`."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pixels[index] * (1 + self.epoch / 100), index % 10


def training() -> tuple[fx.GraphModule, TrainingData]:
    """Return a model to be trained, the same each time, and what it is trained on."""
    prepared = fxquant.prepare_qat(float_model(width=16, depth=1), None, images())
    data = _Images()
    return prepared, TrainingData(data, data.pixels[:8], [(data.pixels, torch.arange(12) % 10)])
