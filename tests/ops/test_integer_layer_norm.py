"""The integer layer norm gives what whole numbers give, and is a layer norm to the precision of its multipliers."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.numerics.arithmetic import integer_layer_norm as normalise
from fxquant.ops import integer_layer_norm, quantize


def by_hand(row: list[int], weight: list[float], bias: list[float], scale: float) -> list[int]:
    """Normalise one token in Python's integers; only the slope and intercept are real numbers, as FQ-ViT has them."""
    count, total, squares = len(row), sum(row), sum(x * x for x in row)
    spread = math.sqrt(max(count * squares - total * total, 1))
    found = []
    for x, w, b in zip(row, weight, bias, strict=True):
        slope = w / scale * count / spread
        intercept = b / scale - total / count * slope
        shift = min(max(7 - math.floor(math.log2(abs(slope))), 0), 31) if slope else 31
        multiplier = min(math.floor(abs(slope) * 2**shift), 255) * (1 if slope > 0 else -1)
        # Fractions round half to even, exactly
        found.append(round(Fraction(multiplier * x + round(intercept * 2**shift), 2**shift)))
    return found


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(4, 40), st.sampled_from([0.01, 0.05, 0.3]))
def test_as_by_hand(seed: int, channels: int, scale: float) -> None:
    random = torch.Generator().manual_seed(seed)
    factor = 2 ** torch.randint(0, 4, (channels,), generator=random)
    x = torch.randint(-128, 128, (3, channels), generator=random) * factor
    weight, bias = torch.randn(channels, generator=random), torch.randn(channels, generator=random)
    step = torch.tensor(scale)
    found = normalise(x, weight, bias, step)
    expected = [by_hand(r, weight.double().tolist(), bias.double().tolist(), step.item()) for r in x.tolist()]
    assert found.tolist() == expected


def layer_norm(codes: Tensor, scale: Tensor, zero: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    values = (codes.double() + 128 - zero) * scale
    return torch.nn.functional.layer_norm(values, values.shape[-1:], weight.double(), bias.double(), 0)


@pytest.mark.parametrize("channels", [16, 48])
def test_close_to_the_float_norm(channels: int) -> None:
    torch.manual_seed(0)
    codes = torch.randint(-128, 128, (2, 5, channels)).to(torch.int8)
    factor = (2 ** torch.randint(0, 4, (channels,))).to(torch.int32)
    zero = torch.full((channels,), 117, dtype=torch.int32)
    weight, bias = torch.rand(channels) + 0.5, torch.randn(channels)
    scale, out_zero = torch.tensor(0.04), torch.tensor(128, dtype=torch.int32)
    found = integer_layer_norm(codes, factor, zero, 255, weight, bias, scale, out_zero, 0, 255)
    float_norm = layer_norm(codes, 0.01 * factor, zero, weight, bias).float()
    expected = quantize(float_norm, scale, out_zero, 0, 255)
    assert found.dtype is torch.int8
    # multipliers have 8 bits: up to 1 in 128 of a value of up to 128 codes
    assert (found.int() - expected.int()).abs().max() <= 2


def test_constant_rows_and_missing_parameters() -> None:
    codes = torch.full((2, 8), 5, dtype=torch.int8)
    zero = torch.zeros((), dtype=torch.int32)
    found = integer_layer_norm(codes, zero + 1, zero, 127, None, None, torch.tensor(0.125), None, -128, 127)
    assert found.eq(0).all()
