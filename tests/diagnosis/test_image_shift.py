"""Sets of images of one distribution are told to differ as rarely as is said, others are told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fxquant.diagnosis.image_shift import FALSE_ALARMS, image_shift


def drawn(count: int, seed: int, brightness: float = 0.0) -> Tensor:
    """Return images whose brightness and contrast vary."""
    generator = torch.Generator().manual_seed(seed)
    light = torch.randn(count, 1, 1, 1, generator=generator) + brightness
    contrast = 0.5 + torch.rand(count, 1, 1, 1, generator=generator)
    return light + contrast * torch.randn(count, 3, 8, 8, generator=generator)


def test_black_images_differ_from_others_and_not_from_themselves() -> None:
    black = torch.zeros(8, 3, 8, 8)
    found = image_shift(black, drawn(40, 1))
    assert found.p <= FALSE_ALARMS
    assert found.distance == 1
    assert found.statistic.startswith("standard deviation of channel")
    assert image_shift(black, black).p == 1


def test_brighter_images_and_one_image_repeated_are_told() -> None:
    assert image_shift(drawn(32, 0, brightness=2.0), drawn(64, 1)).p <= FALSE_ALARMS
    assert image_shift(drawn(1, 0).expand(32, -1, -1, -1), drawn(64, 1)).p <= FALSE_ALARMS


def test_false_alarms_are_as_rare_as_p_says() -> None:
    found = np.array([image_shift(drawn(8, 2 * seed), drawn(24, 2 * seed + 1)).p for seed in range(40)])
    assert found.min() > FALSE_ALARMS
    assert (found <= 0.2).mean() <= 0.3
    assert (found <= 0.5).mean() >= 0.3


def test_the_distance_is_that_of_the_empirical_distributions() -> None:
    one, other = drawn(7, 3), drawn(9, 4)
    expected = 0.0
    for both in ([x.double().mean((2, 3)) for x in (one, other)], [x.double().std((2, 3)) for x in (one, other)]):
        for a, b in zip(*(x.T for x in both), strict=True):
            gaps = [abs(float((a <= at).double().mean() - (b <= at).double().mean())) for at in torch.cat((a, b))]
            expected = max(expected, *gaps)
    assert image_shift(one, other).distance == pytest.approx(expected)
