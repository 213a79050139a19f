"""The images of a training. Their order and their crops depend on the seed and on the epoch alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from fxquant.data.batches import Batch
from fxquant.data.folder import Samples
from fxquant.data.pixels import open_needed_image
from fxquant.distillation import SoftTargets, checked_batches
from fxquant.distillation.draws import random_of
from fxquant.errors import InputError
from fxquant.training.interruption import outlive_first_signal
from fxquant.training.options import TrainingOptions
from fxquant.training.schedule import EpochPass

Targets = Tensor | SoftTargets


class EpochImages(Sized, Protocol):
    """A data set whose crops depend on the index of the image and on the epoch that was set."""

    def set_epoch(self, epoch: int) -> None:
        """Make the crops those of `epoch`."""

    def __getitem__(self, index: int) -> Any:
        """Return one item, of which `collate` makes batches."""

    @property
    def collate(self) -> Callable[[list[Any]], Any]:
        """
        Return the function that makes a batch of items.

        A batch is images ``(R, 3, H, W)`` with class indices ``(R,)`` or soft targets. Where an item could not be read, it
        is an `InputError`.
        """


@dataclass(frozen=True, eq=False)
class TrainingData:
    """
    The images of a training; each rank has its own object.

    images: the training images, for the passes that show one crop of each.
    several: the same images with several crops of each, for the passes that show several; None where there are none.
    calibration: images ``(B, 3, H, W)`` that set the first scales of the activations, the same on all ranks.
    evaluation: batches of validation images, this rank's share of them.
    facts: what else tells this data from other data, by name.
    """

    images: EpochImages
    calibration: Tensor
    evaluation: Iterable[Batch] | None = None
    several: EpochImages | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class AugmentedImages(Dataset[Any]):
    """
    The images of `samples` with their class indices, opened in Pillow's `mode` and changed at random by `transform`.

    The random choices depend on the seed, the epoch and the index alone. It does not matter what was drawn before, or by
    which process.
    """

    def __init__(
        self, samples: Samples, transform: Callable[[Image.Image], Tensor], seed: int = 0, mode: str = "RGB"
    ) -> None:
        self.samples, self.transform, self.seed, self.mode = samples, transform, seed, mode
        self._epoch = 0

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int) -> None:
        """Make the crops those of `epoch`."""
        self._epoch = epoch

    def __getitem__(self, index: int) -> tuple[Tensor, int] | InputError:
        try:
            pixels = open_needed_image(self.samples.files[index], self.mode)
        except InputError as error:
            return error
        return self._transform(pixels, index), self.samples.labels[index]

    def _transform(self, pixels: Image.Image, index: int) -> Tensor:
        """Transform with random states made of the key, and leave those of the process as they were."""
        seed = int(random_of(self.seed, self._epoch, index).randint(2**31))
        states = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng(devices=()):
                torch.default_generator.manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed)
                return self.transform(pixels)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])

    @staticmethod
    def collate(items: list[Any]) -> Any:
        """Stack images and labels, or hand on the first error: raised in a worker its message would be a traceback."""
        failure = next((item for item in items if isinstance(item, InputError)), None)
        return failure or default_collate(items)


def order_batches(count: int, now: EpochPass, seed: int, rank: int, world: int) -> Sequence[list[int]]:
    """
    Return the indices of this rank's images for each step of a pass.

    Ranks take images in turn, so that a step sees the same images on any number of ranks. Where `count` is no multiple of
    the number of ranks, a few images come twice, so that all ranks have equally many.
    """
    sampler = DistributedSampler(range(count), world, rank, shuffle=True, seed=seed)  # type: ignore[arg-type, var-annotated]
    sampler.set_epoch(now.epoch)
    indices, size = list(sampler), now.images // world
    return [indices[first : first + size] for first in range(0, len(indices), size)]


def load_batches(
    data: TrainingData,
    now: EpochPass,
    options: TrainingOptions,
    start: int,
    ranks: tuple[int, int],
    workers: int,
    pinned: bool,
) -> Iterable[Any]:
    """
    Yield this rank's batches of a pass, from step `start` on.

    ranks: the number of this rank, and the number of all ranks.
    pinned: whether the batches lie in page-locked memory.

    Raises `InputError` naming the first image that cannot be read: a step that left it out would not be the one planned.
    """
    dataset = data.several if now.crops > 1 and data.several is not None else data.images
    dataset.set_epoch(now.epoch)
    batches = order_batches(len(dataset), now, options.seed, *ranks)[start:]
    if not batches:
        return
    loader: DataLoader[Any] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=min(workers, len(batches)),
        collate_fn=dataset.collate,
        pin_memory=pinned,
        worker_init_fn=outlive_first_signal,
        generator=torch.Generator(),  # else it would draw from the state that drop path draws from
    )
    yield from checked_batches(loader)
