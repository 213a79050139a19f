"""One calibration batch: what its images are, and how a model runs on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, fx

from fxquant.distributed import rank, world_size
from fxquant.errors import CalibrationError, FxquantError

Batch = Tensor | Sequence[Any]


def on_device(prepared: fx.GraphModule, batches: Iterable[Batch]) -> Iterator[Tensor]:
    """Yield the images of each batch as `prepared` takes them."""
    like = next((t for t in prepared.parameters() if t.is_floating_point()), None)
    for index, batch in enumerate(batches):
        images = images_of(batch, index * world_size() + rank())
        if like is not None and images.is_floating_point():
            images = images.to(device=like.device, dtype=like.dtype)
        yield images


def images_of(batch: Batch, index: int) -> Tensor:
    """Return the images of a batch that is a tensor or an ``(images, targets)`` pair."""
    images = batch if isinstance(batch, Tensor) else batch[0] if isinstance(batch, Sequence) and len(batch) else None
    if not isinstance(images, Tensor):
        raise CalibrationError(
            f"calibration batch {index}: expected a tensor of images or an (images, targets) pair, found "
            f"{type(batch).__name__}"
        )
    return images


def run_batch(prepared: Callable[[Tensor], Any], images: Tensor, index: int) -> None:
    """Run `prepared` on the images of batch `index`; raise `CalibrationError` where it does not take them."""
    try:
        prepared(images)
    except FxquantError:
        raise
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise CalibrationError(
            f"calibration batch {index}: the model does not accept images of shape {tuple(images.shape)} and dtype "
            f"{images.dtype}: {error}"
        ) from error
