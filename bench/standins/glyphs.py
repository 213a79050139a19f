"""
Digits and letters in the fonts that come with matplotlib, as noisy 32x32 images drawn anew from a seed.

Capital and small letters keep their true sizes on one baseline, so that o and O differ as they do on paper; what no reader
can tell apart, such as I and l in some sans serif, is what keeps the best accuracy below 100 %.
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fxquant.errors import InputError

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
CLASSES = len(CHARACTERS)
IMAGE_SIZE = 32
CHUNK = 16 * CLASSES  # images that share one random generator

# Every bundled font that has digits and letters at their own code points, in digits and letters of the usual shape.
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmti10", "cmss10", "cmtt10"),
)

# Of the train part, with paper near 0 and ink near 1.
MEAN = 0.2
STD = 0.21

# Glyphs are drawn once at _DRAWN, halved to _MASTER, warped there and halved again: each step averages, none aliases.
_DRAWN, _MASTER = 4 * IMAGE_SIZE, 2 * IMAGE_SIZE
_EM = 100  # of _DRAWN: ascenders and descenders span nearly 80 % of an image
_BASELINE = 90


@dataclass(frozen=True)
class Split:
    """How many images a part has, and the number that sets its random stream apart from the others'."""

    size: int
    stream: int


PARTS = {
    "train": Split(48 * CHUNK, 1),
    "calibration": Split(2 * CHUNK, 2),
    "test": Split(13 * CHUNK, 3),
}


@dataclass(frozen=True)
class Distortion:
    """The largest random change of a glyph, each drawn evenly for every image."""

    rotation: float = 9.0  # degrees
    shear: float = 0.15  # sideways per height
    zoom: float = 0.08  # relative, of width and height together
    stretch: float = 0.05  # relative, of width against height
    shift: float = 0.07  # of half the image's width
    weight: float = 0.5  # ink becomes ink ** exp(+-weight): bolder or lighter strokes
    paper: float = 0.25  # grey level of the paper
    contrast: tuple[float, float] = (0.55, 1.0)  # ink against paper
    noise: tuple[float, float] = (0.02, 0.12)  # standard deviation


@dataclass(frozen=True)
class Glyphs:
    """Images ``(B, 1, 32, 32)``, float32 and normalised, with their labels ``(B,)``, int64 positions in `CHARACTERS`."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.images.shape[0]

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images ``(size, 1, 32, 32)`` and labels ``(size,)``, the last batch perhaps smaller, in order."""
        order = torch.arange(len(self)) if order is None else order
        for start in range(0, len(order), size):
            positions = order[start : start + size]
            yield self.images[positions], self.labels[positions]


def load_part(name: str, count: int | None = None) -> Glyphs:
    """
    Draw the first `count` images of a part, or all of them: "train" 47,616, "calibration" 1,984, "test" 12,896.

    The same images every time. Classes take turns, so that any prefix is nearly balanced. No two parts share an image:
    each chunk of images has a random stream of its own.

    Raises
    ------
    InputError
        If there is no such part, it has fewer images than `count`, or matplotlib is not installed.
    """
    part = PARTS.get(name)
    if part is None:
        raise InputError(f"unknown part {name!r}: expected one of {', '.join(PARTS)}")
    count = part.size if count is None else count
    if not 1 <= count <= part.size:
        raise InputError(f"count must be 1 to {part.size}, the size of the {name} part, found {count}")
    chunks = [draw_chunk(part.stream, index) for index in range(math.ceil(count / CHUNK))]
    images, labels = (torch.cat(tensors)[:count] for tensors in zip(*chunks, strict=True))
    return Glyphs(images, labels)


def draw_chunk(stream: int, index: int, distortion: Distortion | None = None) -> tuple[Tensor, Tensor]:
    """Draw the images ``(992, 1, 32, 32)`` and labels ``(992,)`` of one chunk of a random stream."""
    distortion = distortion or Distortion()
    random = torch.Generator().manual_seed(1_000_000 * stream + index)
    labels = torch.arange(CHUNK) % CLASSES
    fonts = torch.randint(len(FONTS), (CHUNK,), generator=random)
    ink = _render_masters()[fonts, labels].float()[:, None] / 255  # (B, 1, 64, 64)
    ink = F.grid_sample(ink, _draw_grid(distortion, random), align_corners=False)
    images = _age(F.avg_pool2d(ink, 2), distortion, random)
    return (images - MEAN) / STD, labels


def _draw_grid(distortion: Distortion, random: torch.Generator) -> Tensor:
    """Draw where each pixel comes from, ``(B, 64, 64, 2)``: a random affine map per image."""
    angle = _uniform(math.radians(distortion.rotation), random)
    shear = _uniform(distortion.shear, random)
    zoom, stretch = _uniform(distortion.zoom, random).exp(), _uniform(distortion.stretch, random).exp()
    turn = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), dim=-1).view(-1, 2, 2)
    slant = torch.stack((stretch, shear, torch.zeros_like(shear), 1 / stretch), dim=-1).view(-1, 2, 2)
    shift = torch.stack((_uniform(distortion.shift, random), _uniform(distortion.shift, random)), dim=-1)
    theta = torch.cat((zoom[:, None, None] * (turn @ slant), shift[:, :, None]), dim=-1)  # (B, 2, 3)
    return F.affine_grid(theta, [CHUNK, 1, _MASTER, _MASTER], align_corners=False)


def _age(ink: Tensor, distortion: Distortion, random: torch.Generator) -> Tensor:
    """Vary stroke weight, sharpness and contrast of each image ``(B, 1, 32, 32)``, ink in 0..1, and add noise."""
    ink = ink.pow(_uniform(distortion.weight, random).exp().view(-1, 1, 1, 1))
    binomial = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    blurred = F.conv2d(ink, torch.outer(binomial, binomial)[None, None], padding=2)
    ink = ink.lerp(blurred, _between(0.0, 1.0, random))
    image = _between(0.0, distortion.paper, random) + _between(*distortion.contrast, random) * ink
    return image + _between(*distortion.noise, random) * torch.randn(ink.shape, generator=random)


@lru_cache(maxsize=1)
def _render_masters() -> Tensor:
    """Render each character in each font, ``(fonts, 62, 64, 64)`` uint8, 0 paper to 255 ink, on one baseline."""
    try:
        import matplotlib
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise InputError("the fonts come with matplotlib, which is missing: pip install fxquant[plot]") from error
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    sheets = np.zeros((len(FONTS), CLASSES, _DRAWN, _DRAWN), dtype=np.uint8)
    for row, name in enumerate(FONTS):
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), _EM)
        for column, character in enumerate(CHARACTERS):
            image = Image.new("L", (_DRAWN, _DRAWN))
            ImageDraw.Draw(image).text((_DRAWN // 2, _BASELINE), character, fill=255, font=font, anchor="ms")
            sheets[row, column] = np.asarray(image)
    blocks = torch.from_numpy(sheets).view(len(FONTS), CLASSES, _MASTER, 2, _MASTER, 2)
    return (blocks.to(torch.int32).sum(dim=(3, 5)) // 4).to(torch.uint8)


def _uniform(bound: float, random: torch.Generator) -> Tensor:
    """Draw one number in -bound..bound for each image of a chunk, ``(B,)``."""
    return bound * (2 * torch.rand(CHUNK, generator=random) - 1)


def _between(low: float, high: float, random: torch.Generator) -> Tensor:
    """Draw one number in low..high for each image of a chunk, ``(B, 1, 1, 1)``."""
    return low + (high - low) * torch.rand(CHUNK, 1, 1, 1, generator=random)
