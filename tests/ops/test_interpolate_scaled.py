"""Interpolation by factors is torch's, and leaves what keeps its size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fxquant.ops import interpolate_scaled


@pytest.mark.parametrize("antialias", [False, True])
def test_is_that_of_torch(antialias: bool) -> None:
    x = torch.randn(1, 3, 4, 4)
    expected = F.interpolate(x, scale_factor=(1.55, 0.775), mode="bicubic", antialias=antialias)
    found = interpolate_scaled(x, 1.55, 0.775, "bicubic", antialias)
    assert found.shape == (1, 3, 6, 3)
    assert torch.equal(found, expected)


def test_leaves_what_keeps_its_size() -> None:
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(interpolate_scaled(x, 1.025, 1.025, "bicubic"), x)


def test_shapes_without_values() -> None:
    x = torch.empty(1, 3, 4, 4, device="meta")
    assert interpolate_scaled(x, 1.55, 0.775, "bicubic").shape == (1, 3, 6, 3)
