"""Drive a prepared model over the calibration batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from tqdm.auto import tqdm

from fxquant.errors import CalibrationError, FxquantError

Batch = Tensor | Sequence[Any]


def run_batches(prepared: fx.GraphModule, batches: Iterable[Batch], progress: bool) -> int:
    """Run `prepared` on each batch without gradients and return how many there were."""
    like = next((t for t in prepared.parameters() if t.is_floating_point()), None)
    count = 0
    with torch.no_grad():
        for batch in tqdm(batches, desc="calibrate", unit="batch", disable=not progress):
            images = images_of(batch, count)
            if like is not None and images.is_floating_point():
                images = images.to(device=like.device, dtype=like.dtype)
            _run(prepared, images, count)
            count += 1
    if count == 0:
        raise CalibrationError("expected at least one calibration batch, found none: the iterable is empty or used up")
    return count


def images_of(batch: Batch, index: int) -> Tensor:
    """Return the images of a batch that is a tensor or an ``(images, targets)`` pair."""
    images = batch if isinstance(batch, Tensor) else batch[0] if isinstance(batch, Sequence) and len(batch) else None
    if not isinstance(images, Tensor):
        raise CalibrationError(
            f"calibration batch {index}: expected a tensor of images or an (images, targets) pair, found "
            f"{type(batch).__name__}"
        )
    return images


def _run(prepared: fx.GraphModule, images: Tensor, index: int) -> None:
    try:
        prepared(images)
    except FxquantError:
        raise
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise CalibrationError(
            f"calibration batch {index}: the model does not accept images of shape {tuple(images.shape)} and dtype "
            f"{images.dtype}: {error}"
        ) from error
