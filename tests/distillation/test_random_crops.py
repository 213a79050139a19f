"""Random resized crops: whole pixels inside the image, of the areas and ratios asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fxquant.distillation.draws import random_of
from fxquant.distillation.random_crops import RandomCrops
from fxquant.errors import ConfigError


@pytest.mark.parametrize(("width", "height"), [(60, 40), (500, 375), (3, 2), (1, 1), (4000, 5), (5, 4000)])
def test_crops_are_whole_pixels_inside_the_image(width: int, height: int) -> None:
    coords, flips = RandomCrops(50).draw(random_of(0), width, height)
    boxes = coords.double() * torch.tensor([height, width, height, width])
    assert (coords.dtype, flips.dtype) == (torch.float32, torch.bool)
    assert (boxes - boxes.round()).abs().max() < 1e-2
    assert bool((boxes.round()[:, 2:] >= 1).all())
    assert float((coords[:, :2] + coords[:, 2:]).max()) <= 1 + 1e-6
    assert float(coords.min()) >= 0


def test_areas_ratios_and_flips_have_the_ranges_asked_for() -> None:
    coords, flips = RandomCrops(2000, scale=(0.2, 0.6), flip=0.25).draw(random_of(1), 1000, 800)
    area, ratio = (coords[:, 2] * coords[:, 3]).numpy(), (coords[:, 3] * 1000 / (coords[:, 2] * 800)).numpy()
    assert 0.19 < area.min() < 0.21
    assert 0.59 < area.max() < 0.61
    assert abs(np.log(ratio)).max() < math.log(4 / 3) + 0.01
    assert abs(np.log(ratio).mean()) < 0.02
    assert 0.2 < flips.float().mean() < 0.3


def test_impossible_options_are_refused() -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"count": 0}, "crops must be at least 1"),
        ({"scale": (0.0, 1.0)}, "scale must be a range"),
        ({"scale": (0.9, 0.1)}, "scale must be a range"),
        ({"ratio": (2.0, 1.0)}, "ratio must be a range"),
        ({"flip": 1.5}, "flip must be a probability"),
        ({"flip": float("nan")}, "flip must be a probability"),
    ]
    for options, message in cases:
        with pytest.raises(ConfigError, match=message):
            RandomCrops(**options)  # type: ignore[arg-type]
