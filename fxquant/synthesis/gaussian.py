"""Images of Gaussian noise, the simplest images that calibrate a model without data."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.errors import ConfigError


def gaussian_images(n: int, size: int | tuple[int, int] | tuple[int, int, int], seed: int = 0) -> Tensor:
    """
    Return `n` images ``(n, C, H, W)`` float32 from the standard normal distribution, in normalised space.

    size: one number for height and width, or (height, width), or (channels, height, width). Without channels there are 3.

    `fxquant.synthesize` starts from such images, and PSAQ-ViT (Li et al., ECCV 2022) compares with them. Raises
    `ConfigError` where a number is not positive.
    """
    given = (size, size) if isinstance(size, int) else size
    shape = (3, *given) if len(given) == 2 else given
    if min(n, *shape) < 1:
        raise ConfigError(f"expected at least one image of at least one pixel, got {n} of {shape}")
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))
