"""Data sets that show several stored crops of each image, with the teacher's answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fxquant.data.folder import Samples
from fxquant.data.pixels import open_needed_image
from fxquant.distillation.cutting import check_interpolation, cut_crops, normalise
from fxquant.distillation.draws import random_of
from fxquant.distillation.soft_targets import SoftTargets, concatenate
from fxquant.distillation.source import LabelSource
from fxquant.errors import ConfigError, InputError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

CropItem = tuple[Tensor, SoftTargets]


class MultiCropImages(Dataset[Any]):
    """
    The images of `samples`. An item is `crops` stored crops ``(n, 3, S, S)`` of one image, and their `SoftTargets`.

    Which crops are drawn depends on the seed, the epoch and the position of the image alone. An epoch has the same crops
    with any number of workers, and after a resume.

    size, mean, std, interpolation: how the crops are made for the student. They need not be the teacher's.

    A `DataLoader` needs `collate` as its ``collate_fn``. An image or label that cannot be read is returned as an
    `InputError`, which `checked_batches` raises in the main process.

    Raises `ConfigError` for options that cannot be meant.
    """

    def __init__(
        self,
        samples: Samples,
        source: LabelSource,
        crops: int = 4,
        size: int = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        interpolation: str = "bilinear",
        seed: int = 0,
    ) -> None:
        check_interpolation(interpolation)
        for name, value in (("crops", crops), ("size", size)):
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        self.samples = samples
        self.source = source
        self.crops = crops
        self.size = size
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.interpolation = interpolation
        self.seed = seed
        # In shared memory, so that worker processes which outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def epoch(self) -> int:
        """The epoch whose crops are drawn."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw the crops of `epoch` from now on, in worker processes too. Call it between two passes over the images."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> CropItem | InputError:
        file = self.samples.files[index]
        try:
            labels = self.source.read(file, self._draw(index))
            pixels = cut_crops(open_needed_image(file), labels.coords, labels.flips, self.size, self.interpolation)
        except InputError as error:
            return error
        return normalise(pixels, self.mean, self.std), labels.targets

    def _draw(self, index: int) -> list[int]:
        """Return the rows of `crops` different stored crops."""
        file = self.samples.files[index]
        held = self.source.count(file)
        if held < self.crops:
            raise InputError(f"{self.crops} crops per image are asked for, {held} are stored for {str(file)!r}")
        rows: list[int] = random_of("rows", self.seed, self.epoch, index).permutation(held)[: self.crops].tolist()
        return rows

    @staticmethod
    def collate(items: Sequence[CropItem | InputError]) -> CropItem | InputError:
        """
        Return the crops ``(B * n, 3, S, S)`` of B images, those of one image next to each other, and their targets.

        Where an item could not be read, return its error: raised in a worker it would arrive with a traceback as its
        message.
        """
        read: list[CropItem] = []
        for item in items:
            if isinstance(item, InputError):
                return item
            read.append(item)
        return torch.cat([images for images, _ in read]), concatenate([targets for _, targets in read])


collate = MultiCropImages.collate


def checked_batches(loader: Iterable[CropItem | InputError]) -> Iterator[CropItem]:
    """Yield the batches of a `DataLoader` over `MultiCropImages`; raise an `InputError` that comes in place of a batch."""
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch
