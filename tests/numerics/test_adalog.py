"""Powers of a fitted base: those of two among them, their tables, and which of them a value becomes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fxquant.numerics.adalog import GRID, RESOLUTION, exact_powers, grid_powers, look_up, powers
from fxquant.numerics.arithmetic import dequantize_log2, quantize_log2

ONE = torch.tensor(1.0)


def number(value: float) -> Tensor:
    return torch.tensor(float(value))


def exponents(x: Tensor, base: float, count: int, largest: Tensor = ONE, shift: float = 0.0) -> Tensor:
    return look_up(x, largest, number(base) / RESOLUTION, torch.arange(count + 1), shift)


def test_the_base_37_is_log2() -> None:
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0)).pow(4)
    levels = powers(number(37), 16)
    assert levels.tolist() == [2.0**-q for q in range(16)] + [0]
    assert look_up(x, ONE, number(1), levels, 0.0).equal(dequantize_log2(quantize_log2(x, 15)))


@pytest.mark.parametrize("count", [4, 16, 64])
@pytest.mark.parametrize("table", [powers, grid_powers])
def test_tables_begin_with_the_largest_value_and_never_rise(table: object, count: int) -> None:
    for base in (1, 10, 20, 37, 137):
        entries = table(number(base), count)  # type: ignore[operator]
        assert (len(entries), float(entries[-1])) == (count + 1, 0)
        assert float(entries[0]) == (1 if table is powers else GRID)
        assert bool((entries.diff() <= 0).all())


def test_mantissas_are_rounded_as_published_and_even_steps_by_half_of_one() -> None:
    base, count = 20, 16
    exact = [2 ** (-q * base / RESOLUTION) for q in range(count)]
    shifted = [round(2 ** (-(q * base % 37) / 37) * 30) / 30 / 2 ** (q * base // 37) for q in range(count)]
    assert powers(number(base), count)[:-1].tolist() == pytest.approx(shifted, rel=1e-6)
    assert shifted != pytest.approx(exact, rel=1e-3)
    assert grid_powers(number(base), count)[:-1].tolist() == [round(GRID * power) for power in exact]
    assert exact_powers(number(base), count).tolist() == pytest.approx([*exact, 0])


def test_a_value_becomes_the_nearest_exponent() -> None:
    x = torch.tensor([2.0, 1.0, 0.7, 0.5, 2**-3.4, 2**-3.6, 0.0, -1.0])
    assert exponents(x, 37, 4).tolist() == [0, 0, 1, 1, 3, 4, 4, 4]
    assert exponents(x, 18.5, 8).tolist() == [0, 0, 1, 2, 7, 7, 8, 8]
    assert exponents(8 * x - 0.2, 37, 4, number(8), 0.2).tolist() == [0, 0, 1, 1, 3, 4, 4, 4]
    assert exponents(torch.tensor([math.nan, math.inf]), 37, 4).tolist() == [4, 0]
