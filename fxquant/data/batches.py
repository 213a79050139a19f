"""Images as batches, from files or tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from fxquant.data.folder import Samples
from fxquant.errors import InputError


class TensorBatches:
    """
    Batches of `size` out of images ``(n, 3, H, W)``, with labels of 0; iterate as often as needed.

    part: (i, n) leaves every n-th batch, from number i on.
    """

    def __init__(self, images: Tensor, size: int, part: tuple[int, int] = (0, 1)) -> None:
        self.images, self.size = images, size
        self._batches = images.split(size)[part[0] :: part[1]]
        self.count = sum(map(len, self._batches))

    def shard(self, number: int, count: int) -> TensorBatches:
        """Return every `count`-th batch, from that of this `number` on."""
        return TensorBatches(self.images, self.size, (number, count))

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._batches:
            yield batch, torch.zeros(len(batch), dtype=torch.int64)


DataConfig = dict[str, Any]


Batch = tuple[Tensor, Tensor]


def resolve_data_config(model: nn.Module, img_size: int | None = None) -> DataConfig:
    """Return timm's data config of `model`: input_size ``(3, H, W)``, interpolation, crop_pct, crop_mode, mean and std."""
    config: DataConfig = resolve_model_data_config(model, args={"img_size": img_size} if img_size else None)
    return config


class ImageBatches:
    """
    The batches of `samples`, images ``(B, 3, H, W)`` float32 and labels ``(B,)`` int64, in order; iterate as often as needed.

    config: from `resolve_data_config`; images are resized, cropped and normalised as timm does for validation. workers:
    processes that load, 0 loads in this one. part: (i, n) leaves every n-th batch, from number i on. Iterating raises
    `InputError` naming the first file that is not an image.
    """

    def __init__(
        self, samples: Samples, config: DataConfig, batch_size: int, workers: int = 0, part: tuple[int, int] = (0, 1)
    ) -> None:
        self.samples = samples
        self.config, self.batch_size, self.workers = config, batch_size, workers
        positions = range(len(samples))
        batches = [list(positions[start : start + batch_size]) for start in range(0, len(samples), batch_size)]
        self._batches = batches[part[0] :: part[1]]
        self._loader: DataLoader[Any] = DataLoader(
            _Images(samples, create_transform(**config, is_training=False)),
            batch_sampler=self._batches,
            num_workers=min(workers, len(self)),
            collate_fn=_collate,
        )

    def shard(self, number: int, count: int) -> ImageBatches:
        """Return every `count`-th batch, from that of this `number` on."""
        return ImageBatches(self.samples, self.config, self.batch_size, self.workers, (number, count))

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(map(len, self._batches))

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch[0], batch[1]


def open_image(file: Path) -> Image.Image:
    """Return the RGB image in `file`; raise `InputError` where there is none."""
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, ...
        raise InputError(f"cannot read the image {str(file)!r}: {error}") from error


class _Images(Dataset[Any]):
    """Like timm's ImageDataset, which logs a warning and goes on with the next image where one cannot be read."""

    def __init__(self, samples: Samples, transform: Any) -> None:
        self.samples = samples
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | InputError:
        try:
            pixels = open_image(self.samples.files[index])
        except InputError as error:
            return error
        return self.transform(pixels), self.samples.labels[index]


def _collate(items: list[Any]) -> Any:
    """Stack samples, or hand on the first error: raised in a worker it would arrive with a traceback as its message."""
    failure = next((item for item in items if isinstance(item, InputError)), None)
    return failure or default_collate(items)
