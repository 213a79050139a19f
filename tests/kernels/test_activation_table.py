"""The table of GELU: as close to the exact function as float32 is, over the whole axis."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.kernels.activation_table import APPROXIMATIONS, DEGREE, SEGMENTS, STEP, gelu_table

ERROR = 6.5e-7  # of the polynomials, at the seams of their segments
each = pytest.mark.parametrize("approximate", APPROXIMATIONS)


def evaluate(x: Tensor, table: Tensor) -> Tensor:
    """Return GELU of float32 `x` as a kernel reads it from the table."""
    t = x.abs().clamp(max=STEP * (SEGMENTS - 0.75))
    index = (t / STEP).round().long()
    distance = t - index * STEP
    remainder = torch.zeros_like(t)
    for row in table.flip(0):
        remainder = remainder * distance + row[index]
    return x.clamp(min=0) - remainder


@each
def test_shape_and_sharing(approximate: str) -> None:
    table = gelu_table(approximate)
    assert (table.shape, table.dtype) == ((DEGREE + 1, SEGMENTS), torch.float32)
    assert table.is_contiguous()
    assert gelu_table(approximate) is table


@each
def test_error(approximate: str) -> None:
    x = torch.cat([torch.linspace(-8, 8, 400_001), torch.randn(200_000), torch.tensor([0.0, -0.0, 1e-30, -1e-30])])
    found = evaluate(x, gelu_table(approximate)).double()
    exact = F.gelu(x.double(), approximate=approximate)
    assert bool(((found - exact).abs() <= ERROR + 2.0**-24 * exact.abs()).all())


def test_torch_itself_is_no_closer() -> None:
    x = torch.linspace(-8, 8, 400_001)
    ours, torchs = ((y - F.gelu(x.double())).abs().max() for y in (evaluate(x, gelu_table("none")), F.gelu(x)))
    assert ours <= torchs


@each
def test_far_values(approximate: str) -> None:
    x = torch.tensor([6.0, 10.0, 1000.0, 1e30, float("inf")])
    table = gelu_table(approximate)
    assert torch.equal(evaluate(x, table), x)
    assert bool((evaluate(-x, table).abs() <= ERROR).all())


def test_at_zero_and_on_both_sides_of_it() -> None:
    table = gelu_table("none")
    tiny = torch.tensor([2.0**-k for k in range(20, 60)])
    assert torch.allclose(evaluate(tiny, table), tiny / 2, atol=ERROR)
    assert torch.allclose(evaluate(-tiny, table), -tiny / 2, atol=ERROR)


def test_other_approximations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one of \('none', 'tanh'\), got 'sigmoid'"):
        gelu_table("sigmoid")
