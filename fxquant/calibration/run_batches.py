"""Drive a prepared model over the calibration batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor, fx
from tqdm.auto import tqdm

from fxquant.calibration.batch import Batch, images_of, on_device, run_batch
from fxquant.calibration.integer_softmax import RunIntegerSoftmax, has_integer_softmax
from fxquant.calibration.shared_batches import SharedBatches, count_all, gather_batches
from fxquant.distributed import bar_hidden, rank, together, world_size
from fxquant.errors import CalibrationError


def run_batches(prepared: fx.GraphModule, batches: Iterable[Batch], progress: bool) -> int:
    """
    Run `prepared` on each batch without gradients and return how many there were.

    In a process group the batches of all ranks are meant: see `SharedBatches`.
    """
    alone = world_size() == 1
    total = count_all(batches) if not alone else len(batches) if isinstance(batches, Sized) else None
    bar: tqdm[Any] = tqdm(desc="calibrate", unit="batch", total=total, disable=bar_hidden(progress))
    with bar, torch.no_grad():
        images = on_device(prepared, batches)
        count = _run_alone(prepared, images, bar) if alone else SharedBatches(prepared, images).run(bar)
    _refuse_nothing(count)
    return count


def take_first(batches: Iterator[Batch]) -> tuple[list[Batch], Tensor | None]:
    """Return the first of `batches`, if there is one, and the images of the first that any rank has, in order of ranks."""
    taken: list[Batch] = []

    def take() -> Tensor | None:
        taken.extend(itertools.islice(batches, 1))
        images = images_of(taken[0], rank()) if taken else None
        return images if images is None or world_size() == 1 else images.cpu()

    return taken, next((images for images in together(take) if images is not None), None)


def collect_batches(prepared: fx.GraphModule, batches: Iterable[Batch]) -> list[Tensor]:
    """Return the images of all batches, in a process group those of all ranks, as `prepared` takes them."""
    images = gather_batches(prepared, on_device(prepared, batches))
    _refuse_nothing(len(images))
    for index, each in enumerate(images):
        if each.numel() == 0:
            raise CalibrationError(
                f"calibration batch {index}: expected images, found an empty batch of shape {tuple(each.shape)}"
            )
    return images


def _run_alone(prepared: fx.GraphModule, shown: Iterator[Tensor], bar: tqdm[Any]) -> int:
    count, integer = 0, has_integer_softmax(prepared)
    for images, last in _marking_last(shown) if integer else zip(shown, itertools.repeat(False), strict=False):
        run_batch(RunIntegerSoftmax(prepared).run if last else prepared, images, count)
        count += 1
        bar.update()
    return count


def _refuse_nothing(count: int) -> None:
    if count == 0:
        raise CalibrationError("expected at least one calibration batch, found none: the iterable is empty or used up")


def _marking_last(batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Yield each batch, and whether it is the last; a copy, as what makes them may use the memory again for the next."""
    held: Tensor | None = None
    for batch in batches:
        if held is not None:
            yield held, False
        held = batch.clone()
    if held is not None:
        yield held, True
