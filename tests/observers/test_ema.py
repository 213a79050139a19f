"""EMA: as published, and its two ends."""

from __future__ import annotations

import pytest
import torch

from fxquant.errors import ConfigError
from fxquant.observers import EMA
from tests.support.observer_parity import assert_as_published, batches_of, each_bits, each_stream, observed


@each_stream
@each_bits
def test_as_published(stream: str, bits: int) -> None:
    assert_as_published(EMA(), "ema", stream, bits, rtol=1e-5)


def test_first_batch_sets_and_later_ones_pull() -> None:
    observer = observed(EMA(sigma=0.25), [torch.tensor([-2.0, 8.0])])
    assert [end.item() for end in observer.range()] == [-2, 8]
    observer(torch.tensor([-4.0, 4.0]))
    assert [end.item() for end in observer.range()] == [-2.5, 7]


def test_sigma_one_keeps_the_last_batch() -> None:
    batches = batches_of("shrink3d")
    minimum, maximum = observed(EMA(sigma=1), batches).range()
    torch.testing.assert_close(torch.cat([minimum, maximum]), torch.stack(batches[-1].aminmax()))


@pytest.mark.parametrize("sigma", [0, -0.01, 1.01, float("nan")])
def test_refuses_sigma_outside_its_interval(sigma: float) -> None:
    with pytest.raises(ConfigError, match=r"sigma must lie in \(0, 1\]"):
        EMA(sigma=sigma)
