"""Crops of one image, cut at stored places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fxquant.errors import ConfigError

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def check_interpolation(name: str) -> None:
    """Raise `ConfigError` for an interpolation that is not known."""
    if name not in RESAMPLING:
        raise ConfigError(f"interpolation must be one of {', '.join(RESAMPLING)}, got {name!r}")


def cut_crops(image: Image.Image, coords: Tensor, flips: Tensor, size: int, interpolation: str) -> Tensor:
    """
    Return crops ``(n, 3, size, size)`` uint8 of an RGB image.

    coords: ``(n, 4)`` float32, the top, left, height and width of each crop as fractions of the image.
    flips: ``(n,)`` bool, whether a crop is mirrored after it is cut.

    Each edge is rounded to a whole pixel by itself, and a crop has at least one pixel. Resizing does not look beyond the
    crop.
    """
    # In float32, as the boxes are stored: edges halfway between two pixels are rounded as when they were published.
    scale = np.array([image.height, image.width, image.height, image.width], np.float32)
    boxes = coords.numpy() * scale
    cut = np.empty((len(boxes), size, size, 3), np.uint8)
    for out, (top, left, height, width), flip in zip(cut, boxes, flips.tolist(), strict=True):
        x, y, right, bottom = (round(float(edge)) for edge in (left, top, left + width, top + height))
        part = image.crop((x, y, max(right, x + 1), max(bottom, y + 1)))
        pixels = np.asarray(part.resize((size, size), RESAMPLING[interpolation]))
        out[:] = pixels[:, ::-1] if flip else pixels
    return torch.from_numpy(cut).permute(0, 3, 1, 2).contiguous()


def normalise(crops: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return uint8 crops ``(n, 3, S, S)`` as float32, scaled to [0, 1] and normalised per channel."""
    shift, scale = (torch.tensor(v, dtype=torch.float32, device=crops.device).view(-1, 1, 1) for v in (mean, std))
    return crops.float().div_(255).sub_(shift).div_(scale)
