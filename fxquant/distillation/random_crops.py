"""Draw random resized crops as fractions of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fxquant.errors import ConfigError

_ATTEMPTS = 10


@dataclass(frozen=True)
class RandomCrops:
    """
    How crops are drawn; the defaults are those of FKD's labels.

    count: the number of crops of an image.
    scale: the range of the crop's share of the image's area.
    ratio: the range of the crop's width over its height, drawn evenly in logarithms.
    flip: the probability that a crop is mirrored.

    Raises `ConfigError` for values that cannot be meant.
    """

    count: int = 500
    scale: tuple[float, float] = (0.08, 0.936)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if self.count < 1:
            raise ConfigError(f"crops must be at least 1, got {self.count}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"scale must be a range from low to high inside (0, 1], got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ConfigError(f"ratio must be a range of positive numbers from low to high, got {self.ratio}")
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"flip must be a probability, got {self.flip}")

    def draw(self, random: np.random.RandomState, width: int, height: int) -> tuple[Tensor, Tensor]:
        """
        Return coords ``(n, 4)`` float32 and flips ``(n,)`` bool of crops of an image.

        Coords are top, left, height and width, as fractions of the image that fall on whole pixels.

        width, height: the size of the image in pixels.
        """
        boxes = [self._draw_box(random, width, height) for _ in range(self.count)]
        coords = np.array(boxes, np.float64) / [height, width, height, width]
        flips = random.random_sample(self.count) < self.flip
        return torch.from_numpy(coords.astype(np.float32)), torch.from_numpy(flips)

    def _draw_box(self, random: np.random.RandomState, width: int, height: int) -> tuple[int, int, int, int]:
        low, high = (math.log(r) for r in self.ratio)
        for _ in range(_ATTEMPTS):
            area = width * height * random.uniform(*self.scale)
            ratio = math.exp(random.uniform(low, high))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return random.randint(height - h + 1), random.randint(width - w + 1), h, w
        # No such box fits, as in a panorama: the largest one in the middle that has the ratio.
        w = max(1, min(width, round(height * self.ratio[1])))
        h = max(1, min(height, round(width / self.ratio[0])))
        return (height - h) // 2, (width - w) // 2, h, w
