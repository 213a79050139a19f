"""Images of Gaussian noise, the simplest that calibrate a model without data."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.errors import ConfigError


def gaussian_images(n: int, size: int | tuple[int, int], seed: int = 0) -> Tensor:
    """
    Return `n` images ``(n, 3, H, W)`` float32 drawn from the standard normal distribution in normalised space.

    size: height and width, one number for both. They are the starting point of `fxquant.synthesize`, and PSAQ-ViT's (Li et
    al., ECCV 2022) comparison without synthesis. Raises `ConfigError` where a number is not positive.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(n, height, width) < 1:
        raise ConfigError(f"expected at least one image of at least one pixel, got {n} of {height}x{width}")
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(seed))
