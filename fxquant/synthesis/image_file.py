"""Sets of images in files: tensors for calibration, and a sheet to look at."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from fxquant.errors import InputError, expect_path
from fxquant.files import write_atomically
from fxquant.files.tensor_file import read_tensors, write_tensors
from fxquant.pickles import load_inert
from fxquant.synthesis.synthesis_options import IMAGENET_MEAN, IMAGENET_STD

_KIND = "fxquant_images"
_NAME = "images"
_PADDING = 2  # pixels between the images of a sheet


def save_images(path: str | os.PathLike[str], images: Tensor, metadata: Mapping[str, Any] | None = None) -> None:
    """
    Write images ``(n, C, H, W)`` in normalised space to a safetensors file, with `metadata` in values that JSON can hold.

    Raises `InputError` for images of another shape and where the file cannot be written.
    """
    _check(images, "the images")
    write_tensors(expect_path(path), _KIND, {_NAME: images.float()}, metadata or {}, InputError)


def load_images(path: str | os.PathLike[str]) -> tuple[Tensor, dict[str, Any]]:
    """
    Return the images ``(n, C, H, W)`` float32 and the metadata that `save_images` wrote to a file; no code in it is run.

    A .pt or .pth file, which `torch.save` wrote of one such tensor, has no metadata.

    Raises `InputError` for a file that is missing, damaged or of another kind.
    """
    file = expect_path(path)
    if not file.is_file():
        raise InputError(
            f"image file {str(file)!r} does not exist" if not file.exists() else f"{str(file)!r} is no file"
        )
    if file.suffix in (".pt", ".pth"):
        return _load_pickled(file), {}
    tensors, metadata = read_tensors(file, _KIND, InputError)
    if set(tensors) != {_NAME}:
        raise InputError(
            f"expected one tensor {_NAME!r} in {str(file)!r}, found {', '.join(sorted(tensors)) or 'none'}"
        )
    _check(tensors[_NAME], repr(str(file)))
    return tensors[_NAME], metadata


def _load_pickled(file: Path) -> Tensor:
    try:
        images = load_inert(file)
    except Exception as error:  # a damaged file may raise anything
        raise InputError(f"cannot read {str(file)!r}: expected one tensor, saved by torch.save: {error}") from error
    if not isinstance(images, Tensor):
        raise InputError(f"expected one tensor of images in {str(file)!r}, found a {type(images).__name__}")
    _check(images, repr(str(file)))
    return images.float()


def save_sheet(
    path: str | os.PathLike[str],
    images: Tensor,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> None:
    """
    Write all images ``(n, C, H, W)``, with 1 or 3 channels, to one PNG, in a grid about as wide as high.

    mean, std: the normalisation of the images, which is undone.

    Raises `InputError` where the file cannot be written.
    """
    _check(images, "the images")
    if images.shape[1] not in (1, 3):
        raise InputError(f"a sheet shows images of 1 or 3 channels, these have {images.shape[1]}")
    shift, scale = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))
    pixels = (images.detach().float().cpu() * scale + shift).clamp(0, 1)
    grid = make_grid(pixels, nrow=math.ceil(math.sqrt(len(pixels))), padding=_PADDING, pad_value=1.0)
    sheet = Image.fromarray((grid * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    try:
        write_atomically(Path(path), lambda name: sheet.save(name, format="PNG"))
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def _check(images: Tensor, what: str) -> None:
    if images.dim() != 4 or not images.numel() or not images.is_floating_point():
        raise InputError(
            f"expected images (n, C, H, W) of floating point, {what}: {tuple(images.shape)} of {images.dtype}"
        )
    if not bool(images.isfinite().all()):
        raise InputError(f"expected finite images, {what}: NaN or infinity found")
