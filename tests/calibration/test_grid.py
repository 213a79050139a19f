"""`minimise` finds the best candidate of a grid, of all or of a few that lead to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fxquant.calibration.grid import RATIO, around, evenly_spaced, log_spaced, minimise

INF, NAN = float("inf"), float("nan")


class Table:
    """Losses ``(steps, groups)`` that note which candidates were asked for."""

    def __init__(self, losses: Tensor) -> None:
        self.losses, self.asked = losses, [set[int]() for _ in range(losses.shape[1])]

    def __call__(self, index: Tensor) -> Tensor:
        assert index.shape == (self.losses.shape[1],)
        for group, i in enumerate(index.tolist()):
            self.asked[group].add(i)
        return self.losses.gather(0, index[None])[0]

    def minimise(self, coarse: bool) -> list[int]:
        steps, groups = self.losses.shape
        found = minimise(self, groups, steps, evenly_spaced(steps) if coarse else range(steps), self.losses)
        assert found.dtype is torch.int64
        return found.tolist()  # type: ignore[no-any-return]


def unimodal(steps: int, best: int, slopes: Callable[[int], float]) -> Tensor:
    """Return losses ``(steps, 1)`` that fall strictly up to `best` and then rise."""
    falls = [slopes(i) for i in range(steps)]
    losses = [sum(falls[i:best]) if i < best else sum(falls[best:i]) for i in range(steps)]
    return torch.tensor(losses, dtype=torch.float64)[:, None]


@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=40))
def test_the_full_grid_gives_the_first_of_the_best(rows: list[list[int]]) -> None:
    table = Table(torch.tensor(rows, dtype=torch.float32))
    expected = [min(range(len(rows)), key=lambda i: (rows[i][group], i)) for group in range(3)]
    assert table.minimise(coarse=False) == expected
    assert table.asked == [set(range(len(rows)))] * 3


@given(st.data(), st.integers(1, 300))
def test_the_coarse_grid_finds_the_optimum_of_a_unimodal_loss(data: st.DataObject, steps: int) -> None:
    best = data.draw(st.integers(0, steps - 1))
    slopes = data.draw(st.lists(st.sampled_from([1e-3, 0.1, 1.0, 50.0]), min_size=steps, max_size=steps))
    table = Table(unimodal(steps, best, slopes.__getitem__))
    assert table.minimise(coarse=True) == [best]


@pytest.mark.parametrize(("steps", "most"), [(100, 50), (400, 60), (1000, 70), (2000, 75)])
def test_the_coarse_grid_is_cheap(steps: int, most: int) -> None:
    table = Table(unimodal(steps, steps // 3, lambda _: 1.0))
    assert table.minimise(coarse=True) == [steps // 3]
    assert len(table.asked[0]) <= most


@given(st.data(), st.integers(1, 120), st.booleans())
def test_what_is_returned_was_scored_and_is_the_best_of_it(data: st.DataObject, steps: int, coarse: bool) -> None:
    value = st.sampled_from([0.0, 1.0, 2.0, 1e30, INF, NAN])
    rows = data.draw(st.lists(st.tuples(value, value), min_size=steps, max_size=steps))
    table = Table(torch.tensor(rows))
    for group, found in enumerate(table.minimise(coarse)):
        assert found in table.asked[group]
        numbers = [n for n in (rows[i][group] for i in table.asked[group]) if n < INF]
        assert not numbers or rows[found][group] == min(numbers)


@given(st.data(), st.integers(1, 80), st.booleans())
def test_groups_do_not_depend_on_each_other(data: st.DataObject, steps: int, coarse: bool) -> None:
    rows = data.draw(st.lists(st.tuples(*[st.integers(0, 99)] * 3), min_size=steps, max_size=steps))
    losses = torch.tensor(rows, dtype=torch.float32)
    alone = [Table(losses[:, [group]]).minimise(coarse)[0] for group in range(3)]
    assert Table(losses).minimise(coarse) == alone


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([NAN] * 30, 0),
        ([INF] * 30, 0),
        ([INF, NAN] * 15, 0),
        ([INF] * 12 + [3.0] + [INF] * 17, 12),
        ([NAN] * 16 + [3e38] + [NAN] * 13, 16),
    ],
)
def test_a_loss_that_is_no_number_is_worse_than_any(losses: list[float], expected: int, coarse: bool) -> None:
    assert Table(torch.tensor(losses)[:, None]).minimise(coarse) == [expected]


@given(st.lists(st.floats(0.001, 0.5), min_size=1, max_size=200), st.floats(0.001, 1.0))
def test_log_spaced_positions_cover_the_factors(widths: list[float], smallest: float) -> None:
    factors = [smallest + sum(widths[:i]) for i in range(len(widths) + 1)]
    chosen = log_spaced(factors)
    assert chosen[0] == 0
    assert chosen[-1] == len(factors) - 1
    for one, other in itertools.pairwise(chosen):
        # Never further apart than the ratio, unless next to each other.
        assert other == one + 1 or factors[other - 1] < RATIO * factors[one]


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (2, 2), (33, 33), (400, 35), (2000, 34)])
def test_evenly_spaced_positions_hold_both_ends(steps: int, count: int) -> None:
    chosen = evenly_spaced(steps)
    assert chosen[0] == 0
    assert chosen[-1] == steps - 1
    assert len(chosen) == count


def test_one_candidate() -> None:
    assert Table(torch.tensor([[7.0, NAN]])).minimise(coarse=True) == [0, 0]


@given(st.data(), st.integers(1, 120))
def test_from_around_a_guess_the_optimum_of_a_unimodal_loss_is_found(data: st.DataObject, steps: int) -> None:
    best, guess = (data.draw(st.lists(st.integers(0, steps - 1), min_size=3, max_size=3)) for _ in range(2))
    losses = torch.cat([unimodal(steps, b, lambda i: 1.0 + i % 3) for b in best], 1)
    table = Table(losses)
    assert minimise(table, 3, steps, around(torch.tensor(guess), steps), losses).tolist() == best


def test_a_good_guess_is_cheap() -> None:
    losses = unimodal(100, 60, lambda _: 1.0)
    table = Table(losses)
    assert minimise(table, 1, 100, around(torch.tensor([59]), 100), losses).tolist() == [60]
    assert len(table.asked[0]) <= 20
