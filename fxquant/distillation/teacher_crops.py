"""The random crops that a teacher sees, in batches that may hold the crops of several images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fxquant.data.folder import Samples
from fxquant.data.pixels import open_needed_image
from fxquant.distillation.cutting import cut_crops
from fxquant.distillation.draws import random_of
from fxquant.distillation.random_crops import RandomCrops
from fxquant.errors import InputError

Cuts = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class TeacherCrops(Dataset[Any]):
    """
    Crops of `samples` one after the other, in batches of `batch_size`: pixels uint8, coords and flips.

    names: the names of the images. The crops depend on these and on `seed` alone.

    An image that cannot be read turns its batch into an `InputError`.
    """

    samples: Samples
    names: Sequence[str]
    drawn: RandomCrops
    seed: int
    batch_size: int
    size: int
    interpolation: str

    def __len__(self) -> int:
        return -(-len(self.samples) * self.drawn.count // self.batch_size)

    def __getitem__(self, index: int) -> Cuts | InputError:
        start, count = index * self.batch_size, self.drawn.count
        stop = min(start + self.batch_size, len(self.samples) * count)
        parts: list[Cuts] = []
        for image in range(start // count, (stop - 1) // count + 1):
            rows = slice(max(start - image * count, 0), stop - image * count)
            try:
                parts.append(self._cut(image, rows))
            except InputError as error:
                return error
        pixels, coords, flips = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return pixels, coords, flips

    def _cut(self, index: int, rows: slice) -> Cuts:
        image = open_needed_image(self.samples.files[index])
        random = random_of("crops", self.seed, self.names[index])
        coords, flips = (drawn[rows] for drawn in self.drawn.draw(random, image.width, image.height))
        return cut_crops(image, coords, flips, self.size, self.interpolation), coords, flips
