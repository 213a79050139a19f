"""Tiny models in the place of the stand-ins, and cells of them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from bench.accuracy.cells import Cell
from bench.standins.glyphs import load_part

IMAGES = 62
FIGURES = {"top1": 50.0, "sqnr_db": 20.25, "agreement": 90.0, "seconds": 1.5, "cpu_seconds": 1.0, "memory_mib": 8.0}
drawn = cache(load_part)


def tiny_model(name: str) -> nn.Module:
    """An untrained ViT of two narrow blocks, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        size: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
        return VisionTransformer(in_chans=1, num_classes=62, **size).eval()


def cell(recipe: str = "minmax", outliers: str = "without", seed: int = 0, bits: str = "W8A8", **options: Any) -> Cell:
    return Cell("vit", outliers, bits, recipe, options, seed)
