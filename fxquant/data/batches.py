"""Images as batches, from files or tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from fxquant.data.data_config import DataConfig
from fxquant.data.folder import Samples
from fxquant.data.pixels import image_mode, open_image
from fxquant.data.unreadable import Unreadable
from fxquant.errors import InputError, expect_whole


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


Batch = tuple[Tensor, Tensor]


def resolve_data_config(model: nn.Module, img_size: int | None = None) -> DataConfig:
    """
    Return timm's data config of `model`, for images of `img_size` pixels where it is given.

    Where the model takes another number of channels than its weights were trained on, each channel has the average of the
    published means and standard deviations.
    """
    published = getattr(model, "pretrained_cfg", {}).get("input_size", (3,))
    channels = int(getattr(model, "in_chans", published[0]))
    size = {} if img_size is None else {"img_size": img_size}
    config = resolve_model_data_config(model, args={"in_chans": channels, **size})
    found = len(config["mean"])
    own = DataConfig(**{**config, "input_size": (found, *config["input_size"][1:])})
    return own.changed({"in_chans": channels})


def read_images(files: Sequence[str | Path | BinaryIO], config: DataConfig) -> Tensor:
    """
    Return the images in `files`, paths or open binary files, as one batch ``(B, C, H, W)`` float32, as `ImageBatches` does.

    Raises `InputError` for a file that cannot be read, and for other than 1 or 3 channels.
    """
    transform, mode = _transform(config), image_mode(config.input_size[0])
    return torch.stack([transform(open_image(file, mode)) for file in files])


class ImageBatches:
    """
    The batches of `samples`, images ``(B, C, H, W)`` float32 and labels ``(B,)`` int64, in order; iterate as often as needed.

    config: from `resolve_data_config`; images are resized, cropped and normalised as timm does for validation. workers:
    processes that load, 0 loads in this one. part: (i, n) leaves every n-th batch, from number i on.

    A file that cannot be read is left out of its batch, with its label, and noted in `unreadable`. It is not tried again, so
    that each iteration gives the same images; a batch of such files alone is none. Parts share one record.

    Iterating raises `InputError` where too many cannot be read: see `Unreadable`. So does making batches of other than 1 or
    3 channels.
    """

    def __init__(
        self,
        samples: Samples,
        config: DataConfig,
        batch_size: int,
        workers: int = 0,
        part: tuple[int, int] = (0, 1),
        unreadable: Unreadable | None = None,
    ) -> None:
        expect_whole("batch_size", batch_size, least=1)
        expect_whole("workers", workers, least=0)
        self.samples = samples
        self.config, self.batch_size, self.workers = config, batch_size, workers
        self.unreadable = Unreadable(len(samples)) if unreadable is None else unreadable
        positions = range(len(samples))
        batches = [list(positions[start : start + batch_size]) for start in range(0, len(samples), batch_size)]
        self._batches = batches[part[0] :: part[1]]
        self._images = _Images(samples, _transform(config), image_mode(config.input_size[0]))

    def shard(self, number: int, count: int) -> ImageBatches:
        """Return every `count`-th batch, from that of this `number` on."""
        return ImageBatches(
            self.samples, self.config, self.batch_size, self.workers, (number, count), unreadable=self.unreadable
        )

    def find_unreadable(self) -> dict[Path, str]:
        """Read all images, and return the files that cannot be read with the reasons; raise as iterating does."""
        for _ in self:
            pass
        return self.unreadable.reasons

    def without(self, files: Collection[Path]) -> ImageBatches:
        """Return batches of the samples that are not of `files`, with the same record of what cannot be read."""
        left = self.samples.take([i for i, file in enumerate(self.samples.files) if file not in files])
        return ImageBatches(left, self.config, self.batch_size, self.workers, unreadable=self.unreadable)

    @property
    def count(self) -> int:
        """How many images there are, with those that cannot be read."""
        return sum(map(len, self._batches))

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        known, files = self.unreadable.reasons, self.samples.files
        left = [[i for i in batch if files[i] not in known] for batch in self._batches]
        loader: DataLoader[Any] = DataLoader(
            self._images,
            batch_sampler=[batch for batch in left if batch],
            num_workers=min(self.workers, len(self)),
            collate_fn=_collate,
        )
        for batch, reasons in loader:
            self.unreadable.add(reasons)
            if batch is not None:
                yield batch[0], batch[1]


def _transform(config: DataConfig) -> Any:
    return create_transform(**config.as_timm(), is_training=False)


Item = tuple[Tensor, int] | tuple[Path, str]


class _Images(Dataset[Any]):
    """
    The image and label at each position, or the file and why it cannot be read.

    An error raised in a worker would arrive with a traceback as its message. timm's ImageDataset goes on with the next image.
    """

    def __init__(self, samples: Samples, transform: Any, mode: str) -> None:
        self.samples, self.transform, self.mode = samples, transform, mode

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        file = self.samples.files[index]
        try:
            pixels = open_image(file, self.mode)
        except InputError as error:
            return file, str(error)
        return self.transform(pixels), self.samples.labels[index]


def _collate(items: list[Any]) -> tuple[Any, dict[Path, str]]:
    """Return the images and labels of `items` as a batch, None where there are none, and what could not be read."""
    read = [item for item in items if isinstance(item[0], Tensor)]
    return default_collate(read) if read else None, dict(item for item in items if isinstance(item[0], Path))
