"""`quantize` stores codes as int8 and `dequantize` reads them back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxquant.numerics import arithmetic
from fxquant.ops import dequantize, quantize


@given(bits=st.integers(2, 8), signed=st.booleans(), affine=st.booleans(), seed=st.integers(0, 2**31))
def test_stored_codes_are_those_of_the_arithmetic(bits: int, signed: bool, affine: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    qmin, qmax = arithmetic.code_range(bits, signed)
    x = torch.randn(50, generator=generator) * 10
    scale = torch.rand((), generator=generator) + 0.01
    zero_point = torch.randint(qmin, qmax + 1, (), generator=generator, dtype=torch.int32) if affine else None
    stored = quantize(x, scale, zero_point, qmin, qmax)
    codes = arithmetic.quantize(x, scale, zero_point, qmin, qmax)
    assert stored.dtype is torch.int8
    assert torch.equal(stored.float() + arithmetic.storage_offset(qmax), codes)
    values = dequantize(stored, scale, zero_point, qmin, qmax)
    assert values.dtype is torch.float32
    assert torch.equal(values, arithmetic.dequantize(codes, scale, zero_point))


def test_eight_unsigned_bits_use_every_int8() -> None:
    codes = quantize(torch.arange(256.0), torch.ones(()), None, 0, 255)
    assert codes.tolist() == list(range(-128, 128))


@pytest.mark.parametrize("axis", [1, -1])
def test_scales_along_an_axis(axis: int) -> None:
    x = torch.randn(2, 3, 4)
    scale = torch.rand(x.shape[axis]) + 0.1
    stored = quantize(x, scale, None, -8, 7, axis)
    assert torch.equal(stored.float(), arithmetic.quantize(x, scale, None, -8, 7, axis))
    assert torch.equal(dequantize(stored, scale, None, -8, 7, axis), arithmetic.dequantize(stored, scale, None, axis))
