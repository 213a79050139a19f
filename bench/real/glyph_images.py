"""Glyphs of ``bench/standins`` as images for a pretrained ViT: larger, in three channels, normalised as it expects."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.nn import functional as F

from bench.real.settings import TRAINING_IMAGES
from bench.standins.glyphs import MEAN, STD, load_part
from fxquant.errors import InputError

# The order in which splits take images of a part: without it, 32 images in a row would be of 32 of the 62 classes.
_ORDER_SEED = 20
# Of each part, how many images the splits are taken from.
_POOLS = {"train": TRAINING_IMAGES, "calibration": 992, "test": 4960}


@dataclass(frozen=True)
class LabelledImages:
    """Images ``(B, 3, px, px)``, float32 and normalised, with their labels ``(B,)``, int64."""

    images: Tensor
    labels: Tensor


def load_glyph_images(part: str, px: int, count: int, split: int = 0) -> LabelledImages:
    """
    Draw `count` glyphs of a part of ``bench.standins``: the first of a random order for split 0, the next for split 1.

    Raises
    ------
    InputError
        If there is no such part, or it has fewer images.
    """
    glyphs = load_part(part, _POOLS.get(part))
    if split < 0 or count < 1 or count * (split + 1) > len(glyphs):
        raise InputError(f"expected a split of {count} among {len(glyphs)} images of {part!r}, found {split}")
    order = torch.randperm(len(glyphs), generator=torch.Generator().manual_seed(_ORDER_SEED))
    chosen = order[count * split : count * (split + 1)]
    return LabelledImages(enlarge(glyphs.images[chosen], px), glyphs.labels[chosen])


def enlarge(glyphs: Tensor, px: int) -> Tensor:
    """Return glyphs ``(B, 1, 32, 32)`` as images ``(B, 3, px, px)`` with the mean and deviation of ImageNet."""
    grey = F.interpolate(glyphs * STD + MEAN, size=(px, px), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return (grey - mean) / std
