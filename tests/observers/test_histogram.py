"""The moment histogram: nothing lost, exact widening, any range."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.config.operands import TensorSpec
from fxquant.numerics.granularity import PerChannel
from fxquant.observers import OMSE, OMSEObserver
from fxquant.observers.histogram import Grid, power_of_two
from tests.support.observer_parity import observed

# Not down to where a value divided by the width of a bin underflows float32: there its sign, hence its bin, is lost.
FLOATS = st.floats(-(2.0**60), 2.0**60, width=32).filter(lambda value: value == 0 or abs(value) > 2.0**-60)
BATCHES = st.lists(st.lists(FLOATS, min_size=1, max_size=8), min_size=1, max_size=6)


def observer_of(batches: list[torch.Tensor], spec: TensorSpec | None = None) -> OMSEObserver:
    observer = observed(OMSE(bins=256), batches, spec)
    assert isinstance(observer, OMSEObserver)
    return observer


@settings(deadline=None)
@given(BATCHES)
def test_nothing_is_lost_and_order_does_not_matter(batches: list[list[float]]) -> None:
    tensors = [torch.tensor(batch) for batch in batches]
    streamed, at_once = observer_of(tensors), observer_of([torch.cat(tensors[::-1])])
    assert streamed.exponent.equal(at_once.exponent)
    assert streamed.origin.equal(at_once.origin)
    assert streamed.histogram[0].equal(at_once.histogram[0])
    assert streamed.histogram[0].sum() == sum(map(len, batches))
    magnitudes = torch.cat(tensors).double().abs().sum().item()
    torch.testing.assert_close(streamed.histogram[1], at_once.histogram[1], rtol=0, atol=1e-12 * magnitudes)


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=20), st.sampled_from([256, 1000, 2**14]))
def test_values_lie_in_their_bins(values: list[float], bins: int) -> None:
    rows = torch.tensor([values, values[::-1], [-v for v in values]])
    grid = Grid.over(rows.amin(1), rows.amax(1), bins)
    counts, sums = grid.histogram(rows)
    width, start = grid.width.double()[:, None], grid.origin[:, None] + torch.arange(bins)
    means, used = sums / counts.clamp(min=1), counts > 0
    slack = 1e-12 * means.abs()
    assert ((start * width - slack <= means) & (means <= (start + 1) * width + slack))[used].all()
    assert counts.sum(1).tolist() == [len(values)] * 3


def test_bins_are_as_fine_as_the_range_allows() -> None:
    rows = torch.randn(5, 1000) * torch.tensor([1e-30, 1e-3, 1, 1e3, 1e30])[:, None] + 0.5
    minimum, maximum = rows.amin(1), rows.amax(1)
    extent = (maximum - minimum)[1:] / Grid.over(minimum, maximum, 2**14).width[1:]
    assert (extent > 2**13 - 1).all()
    assert (extent < 2**14).all()


def test_rows_widen_on_their_own() -> None:
    first, second = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[1.5, 1.5], [1e4, -1e4]])
    per_row = TensorSpec(granularity=PerChannel(0))
    both = observer_of([first, second], per_row)
    for row in range(2):
        alone = observer_of([first[row], second[row]])
        assert both.histogram[:, row].equal(alone.histogram[:, 0])


def test_powers_of_two_are_exact() -> None:
    exponents = torch.arange(-126, 128, dtype=torch.int32)
    assert power_of_two(exponents).tolist() == [2.0**e for e in exponents.tolist()]
