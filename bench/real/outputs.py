"""What a model gives for many images, and how far that is from what another one gives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fxquant.progress import track

BATCH = 50


@torch.no_grad()
def run(model: Callable[[Tensor], Tensor], images: Tensor, description: str) -> Tensor:
    """Return what `model` gives for images ``(B, 3, px, px)``, ``(B, ...)``, in batches of 50."""
    return torch.cat([model(batch) for batch in track(images.split(BATCH), description, "batch", leave=False)])


def relative_error(expected: Tensor, found: Tensor) -> float:
    """Return ``|found - expected| / |expected|``, Frobenius norms over all elements."""
    return float((found - expected).double().norm() / expected.double().norm())


def top1(logits: Tensor, labels: Tensor) -> float:
    """Return the percentage of logits ``(B, classes)`` whose largest is that of the label ``(B,)``."""
    return 100 * (logits.argmax(dim=1) == labels).double().mean().item()
