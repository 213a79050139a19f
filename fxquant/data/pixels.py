"""One image file as pixels of 8 bits, whatever it holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from fxquant.errors import InputError

_MODES = {1: "L", 3: "RGB"}
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_WHITE_IS_ZERO, _SIGNED = 0, 2


def image_mode(channels: int) -> str:
    """Return Pillow's mode of images with that many channels; raise `InputError` where image files have no such."""
    if channels not in _MODES:
        raise InputError(
            f"image files are opened with 3 channels (RGB) or 1 (grey), the model takes {channels}: make the batches "
            "yourself and give them to fxquant.quantize"
        )
    return _MODES[channels]


def open_image(file: str | Path | BinaryIO, mode: str = "RGB") -> Image.Image:
    """
    Return the first image in `file`, a path or an open binary file, in Pillow's `mode` "RGB" or "L".

    Colours are converted by Pillow, transparency is dropped, and a turn that EXIF asks for is not made: that is how timm
    reads images. Pixels of 16 bits, of 32 bits and floats, which Pillow would clip, are scaled to 8 bits.

    Raises `InputError`, which names a path, where there is no image, or its range of values is not known.
    """
    if not isinstance(file, str | os.PathLike):
        return _decoded(file, mode, "the image")
    if not os.path.isfile(file):  # a pipe would be waited for
        raise InputError(f"cannot read the image {str(file)!r}: it is no file, or a link to none")
    return _decoded(file, mode, f"the image {str(file)!r}")


def _decoded(file: str | Path | BinaryIO, mode: str, name: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            return _to_eight_bits(image).convert(mode)
    except UnidentifiedImageError as error:
        raise InputError(f"cannot read {name}: it is in no format of images that Pillow knows") from error
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, ...
        raise InputError(f"cannot read {name}: {error}") from error


def open_needed_image(file: str | Path, mode: str = "RGB") -> Image.Image:
    """Open an image as `open_image` does, for work in which none may be left out: the error says what to do."""
    try:
        return open_image(file, mode)
    except InputError as error:
        raise InputError(
            f"{error}. No image to train on or to label is left out: put a readable one in its place, or move it away and "
            "begin anew"
        ) from error


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Return an image of one wide channel scaled so that its white is 255; any other as it is."""
    if not image.mode.startswith(("I", "F")):
        if _tag(image, _SAMPLE_FORMAT) and _SIGNED in _tag(image, _SAMPLE_FORMAT):
            raise InputError("its values are signed bytes, expected unsigned ones: save it with 8 unsigned bits")
        return image
    values = np.asarray(image, dtype=np.float64)
    white = _white(image, values)
    if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:  # which Pillow heeds in 8 bits alone
        values = white - values
    return Image.fromarray((values * (255 / white)).round().astype(np.uint8))


def _white(image: Image.Image, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """
    Return the value that means white.

    16 bits have a range of their own, up to 65535 or 32767 where they are signed. Wider pixels may hold values of any range:
    floats up to 1 are taken for a range of 1, and any values up to 255 and up to 65535 for ranges of 8 and of 16 bits.
    """
    low, high = float(values.min()), float(values.max())
    white = _stated_white(image) or next((white for white in _ranges(image) if high <= white), None)
    # A little more than 1 or 255 is such a range that was overshot: in the next one it would be black.
    if (
        white is None
        or not low >= 0
        or (not _stated_white(image) and any(top < high < 2 * top for top in _ranges(image)))
    ):
        raise InputError(
            f"its values are from {low:g} to {high:g}, expected 0 to 1, 255 or 65535: save it with 8 or 16 bits"
        )
    return white


def _ranges(image: Image.Image) -> tuple[float, ...]:
    return (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)


def _stated_white(image: Image.Image) -> float | None:
    """Return the value of white that follows from how the file stores its values, None where they may have any range."""
    bits = _tag(image, _BITS)
    if image.mode.startswith("I;16"):
        return float(2 ** (bits[0] if bits else 16) - 1)
    if image.mode == "I" and image.format == "PPM":
        return 65535.0  # to which Pillow scales the range that the file states
    if image.mode == "I" and bits and bits[0] == 16:  # signed
        return 32767.0
    return None


def _tag(image: Image.Image, number: int) -> Any:
    """Return a tag of a TIFF file, None where it has no such."""
    tags = getattr(image, "tag_v2", None)
    return None if tags is None else tags.get(number)
