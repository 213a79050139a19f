"""Images of noise: normal, and the same for the same seed."""

from __future__ import annotations

import pytest
import torch

from fxquant.errors import ConfigError
from fxquant.synthesis import gaussian_images


def test_noise_is_standard_normal_and_seeded() -> None:
    images = gaussian_images(4, 32, seed=1)
    assert images.shape == (4, 3, 32, 32)
    assert images.dtype is torch.float32
    assert abs(float(images.mean())) < 0.05
    assert abs(float(images.std()) - 1) < 0.05
    assert torch.equal(images, gaussian_images(4, (32, 32), seed=1))
    assert not torch.equal(images, gaussian_images(4, 32, seed=2))


def test_no_images_are_refused() -> None:
    for n, size in ((0, 8), (1, 0), (1, (8, -1))):
        with pytest.raises(ConfigError, match="at least one image"):
            gaussian_images(n, size)
