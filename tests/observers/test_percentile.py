"""Percentile: as published, and exact order statistics whatever the tensor looks like."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.errors import ConfigError
from fxquant.observers import MinMax, Percentile
from fxquant.observers.percentile import tail_quantile
from tests.support.observer_parity import assert_as_published, batches_of, each_bits, each_stream, observed


def sorted_quantiles(rows: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Return both quantiles of each row the plain way."""
    ordered, rank = rows.float().sort(dim=1).values, (1 - alpha) * (rows.shape[1] - 1)
    k, next_k = int(rank), min(int(rank) + 1, rows.shape[1] - 1)
    low = torch.lerp(ordered[:, k], ordered[:, next_k], rank - k)
    return low, torch.lerp(ordered[:, -1 - k], ordered[:, -1 - next_k], rank - k)


@each_stream
@each_bits
def test_as_published(stream: str, bits: int) -> None:
    assert_as_published(Percentile(), "percentile", stream, bits, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.99999, 0.999, 0.99, 0.9, 0.6, 1.0])
@pytest.mark.parametrize("kind", ["normal", "relu", "ties", "sorted", "constant", "bfloat16"])
@pytest.mark.parametrize("shape", [(1, 100_003), (3, 5_000), (40, 17), (2, 1)])
def test_order_statistics_are_exact(alpha: float, kind: str, shape: tuple[int, int]) -> None:
    normal = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rows = {
        "normal": normal,
        "relu": normal.relu(),
        "ties": normal.round(),
        "sorted": normal.sort(dim=1).values,
        "constant": torch.full(shape, 0.1),
        "bfloat16": normal.bfloat16(),
    }[kind]
    low, high = sorted_quantiles(rows, alpha)
    assert tail_quantile(rows, alpha, largest=False).equal(low)
    assert tail_quantile(rows, alpha, largest=True).equal(high)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]), min_size=1, max_size=60),
    st.floats(0.5, 1, exclude_min=True),
)
def test_ties_do_not_hide_a_value(values: list[float], alpha: float) -> None:
    rows = torch.tensor([values])
    low, high = sorted_quantiles(rows, alpha)
    assert tail_quantile(rows, alpha, largest=False).equal(low)
    assert tail_quantile(rows, alpha, largest=True).equal(high)


def test_agrees_with_torch_quantile() -> None:
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    minimum, maximum = observed(Percentile(alpha=0.99), [x]).range()
    expected = torch.quantile(x.double(), torch.tensor([0.01, 0.99], dtype=torch.float64))
    torch.testing.assert_close(torch.cat([minimum, maximum]), expected.float())


def test_rank_of_a_long_row_is_not_rounded() -> None:
    n = 2**24
    rows = torch.arange(1 - n, 1, dtype=torch.float32).reshape(1, n)
    assert tail_quantile(rows, 0.99999, largest=True).item() == pytest.approx(-1e-5 * (n - 1), rel=1e-6)


def test_alpha_one_and_sigma_one_are_the_extremes_of_the_last_batch() -> None:
    batches = batches_of("channels3d")
    expected = observed(MinMax(), batches[-1:]).range()
    torch.testing.assert_close(observed(Percentile(alpha=1, sigma=1), batches).range(), expected)


@pytest.mark.parametrize("alpha", [0.5, 0, 1.00001, float("nan")])
def test_refuses_alpha_outside_its_interval(alpha: float) -> None:
    with pytest.raises(ConfigError, match=r"alpha must lie in \(0.5, 1\]"):
        Percentile(alpha=alpha)


def test_refuses_sigma_outside_its_interval() -> None:
    with pytest.raises(ConfigError, match=r"sigma must lie in \(0, 1\]"):
        Percentile(sigma=0)
