"""Drive a prepared model over the calibration batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any

import torch
from torch import Tensor, fx
from tqdm.auto import tqdm

from fxquant.calibration.integer_softmax import RunIntegerSoftmax, has_integer_softmax
from fxquant.errors import CalibrationError, FxquantError

Batch = Tensor | Sequence[Any]


def run_batches(prepared: fx.GraphModule, batches: Iterable[Batch], progress: bool) -> int:
    """Run `prepared` on each batch without gradients and return how many there were."""
    count, total = 0, len(batches) if isinstance(batches, Sized) else None
    shown = tqdm(_on_device(prepared, batches), desc="calibrate", unit="batch", total=total, disable=not progress)
    integer = has_integer_softmax(prepared)
    with torch.no_grad():
        for images, last in _marking_last(shown) if integer else zip(shown, itertools.repeat(False), strict=False):
            _run(RunIntegerSoftmax(prepared).run if last else prepared, images, count)
            count += 1
    _refuse_nothing(count)
    return count


def collect_batches(prepared: fx.GraphModule, batches: Iterable[Batch]) -> list[Tensor]:
    """Return the images of all batches, as `prepared` takes them."""
    images = list(_on_device(prepared, batches))
    _refuse_nothing(len(images))
    for index, each in enumerate(images):
        if each.numel() == 0:
            raise CalibrationError(
                f"calibration batch {index}: expected images, found an empty batch of shape {tuple(each.shape)}"
            )
    return images


def _on_device(prepared: fx.GraphModule, batches: Iterable[Batch]) -> Iterator[Tensor]:
    like = next((t for t in prepared.parameters() if t.is_floating_point()), None)
    for index, batch in enumerate(batches):
        images = images_of(batch, index)
        if like is not None and images.is_floating_point():
            images = images.to(device=like.device, dtype=like.dtype)
        yield images


def _refuse_nothing(count: int) -> None:
    if count == 0:
        raise CalibrationError("expected at least one calibration batch, found none: the iterable is empty or used up")


def images_of(batch: Batch, index: int) -> Tensor:
    """Return the images of a batch that is a tensor or an ``(images, targets)`` pair."""
    images = batch if isinstance(batch, Tensor) else batch[0] if isinstance(batch, Sequence) and len(batch) else None
    if not isinstance(images, Tensor):
        raise CalibrationError(
            f"calibration batch {index}: expected a tensor of images or an (images, targets) pair, found "
            f"{type(batch).__name__}"
        )
    return images


def _marking_last(batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Yield each batch, and whether it is the last; a copy, as what makes them may use the memory again for the next."""
    held: Tensor | None = None
    for batch in batches:
        if held is not None:
            yield held, False
        held = batch.clone()
    if held is not None:
        yield held, True


def _run(prepared: Callable[[Tensor], Any], images: Tensor, index: int) -> None:
    try:
        prepared(images)
    except FxquantError:
        raise
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise CalibrationError(
            f"calibration batch {index}: the model does not accept images of shape {tuple(images.shape)} and dtype "
            f"{images.dtype}: {error}"
        ) from error
