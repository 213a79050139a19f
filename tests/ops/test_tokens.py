"""Codes with a scale per token: their range, their ends, the way back, and products on them."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fxquant.errors import InputError
from fxquant.kernels import use_backend
from fxquant.numerics.arithmetic import code_range
from fxquant.ops import (
    dequantize_tokens,
    int8_linear,
    int8_linear_add,
    layer_norm_quantize,
    layer_norm_quantize_tokens,
    quantize,
    quantize_tokens,
)

X = torch.tensor([[-1.0, 0.0, 3.0], [0.0, 0.0, 0.0], [2.0, 4.0, 8.0], [-5.0, -1.0, -2.0]])


def test_the_ends_of_each_row_have_the_ends_of_the_codes() -> None:
    codes, scale, zero_point = quantize_tokens(X, False, 0, 255)
    assert codes.tolist() == [[-128, -64, 127], [-128, -128, -128], [-64, -1, 127], [-128, 76, 25]]
    torch.testing.assert_close(scale[[0, 2, 3]], torch.tensor([4.0, 8.0, 5.0]) / 255)
    assert zero_point.tolist() == [-64, -128, -128, 127]
    assert (codes.dtype, scale.dtype, zero_point.dtype) == (torch.int8, torch.float32, torch.int32)


def test_symmetric_codes_have_the_zero_point_0() -> None:
    codes, scale, zero_point = quantize_tokens(X, True, -127, 127)
    assert codes.tolist() == [[-42, 0, 127], [0, 0, 0], [32, 64, 127], [-127, -25, -51]]
    torch.testing.assert_close(scale[[0, 2, 3]], torch.tensor([3.0, 8.0, 5.0]) / 127)
    assert not zero_point.any()


@given(
    bits=st.integers(2, 8),
    kind=st.sampled_from([(True, True), (False, True), (False, False)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    seed=st.integers(0, 2**31),
)
def test_the_way_back_is_that_of_one_scale(
    bits: int, kind: tuple[bool, bool], dtype: torch.dtype, shape: list[int], seed: int
) -> None:
    symmetric, signed = kind
    torch.manual_seed(seed)
    x = (torch.randn(shape) * torch.rand(*shape[:-1], 1).mul(6).exp()).to(dtype)
    qmin, qmax = code_range(bits, signed)
    codes, scale, zero_point = quantize_tokens(x, symmetric, qmin, qmax)
    assert scale.shape == zero_point.shape == x.shape[:-1]
    back = dequantize_tokens(codes, scale, zero_point)
    offset = 128 if qmax > 127 else 0
    rows = (x.reshape(-1, shape[-1]), codes.reshape(-1, shape[-1]), scale.reshape(-1), zero_point.reshape(-1))
    for row, found, own_scale, own_zero in zip(*rows, strict=True):
        wanted = quantize(row, own_scale, own_zero + offset, qmin, qmax)
        assert torch.equal(found, wanted)
    assert bool(((back - x.float()).abs() <= scale[..., None] * 1.001).all())
    assert not dequantize_tokens(*quantize_tokens(torch.zeros_like(x), symmetric, qmin, qmax)).any()


def test_a_layer_norm_gives_the_codes_of_its_result() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 5, 12), torch.randn(12), torch.randn(12)
    with use_backend("aten"):
        found = layer_norm_quantize_tokens(x, weight, bias, 1e-6, False, 0, 255)
        wanted = quantize_tokens(F.layer_norm(x, (12,), weight, bias, 1e-6), False, 0, 255)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    one = layer_norm_quantize(x[:1, :1], weight, bias, 1e-6, found[1][0, 0], found[2][0, 0] + 128, 0, 255)
    assert torch.equal(one, found[0][:1, :1])


def _operands(k: int = 8, o: int = 5) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(-128, 128, (2, 3, k), generator=g, dtype=torch.int8)
    weight = torch.randint(-128, 128, (8, k), generator=g, dtype=torch.int8)
    scale, bias = torch.rand(o, generator=g), torch.randn(o, generator=g)
    row_scale = torch.rand(2, 3, generator=g)
    row_zero = torch.randint(-128, 128, (2, 3), generator=g, dtype=torch.int32)
    return codes, weight, scale, bias, row_scale, row_zero


@pytest.mark.parametrize("backend", ["auto", "aten"])
def test_a_product_takes_the_zero_point_of_each_row_off(backend: str) -> None:
    codes, weight, scale, bias, row_scale, row_zero = _operands()
    exact = (codes.double() - row_zero[..., None]) @ weight[:5].T.double()
    wanted = exact * scale * row_scale[..., None] + bias
    with use_backend(backend):
        y = int8_linear(codes, weight, scale, bias, None, None, torch.float32, False, row_scale, row_zero)
        added = int8_linear_add(codes, weight, scale, bias, wanted.float(), torch.float32, False, row_scale, row_zero)
    torch.testing.assert_close(y, wanted.float())
    torch.testing.assert_close(added, 2 * wanted.float())


def test_operands_that_do_not_fit() -> None:
    codes, weight, scale, bias, row_scale, row_zero = _operands()
    product = (codes, weight, scale, bias)
    options = (torch.float32, False)
    for rows, message in [
        ((row_scale, None), "expected both scale and zero point of each row"),
        ((None, row_zero), "expected both scale and zero point of each row"),
        ((row_scale[0], row_zero), "scale of each row: expected torch.float32 (2, 3)"),
        ((row_scale, row_zero.float()), "zero point of each row: expected torch.int32 (2, 3)"),
    ]:
        with use_backend("aten"), pytest.raises(InputError, match=re.escape(message)):
            int8_linear(*product, None, None, *options, *rows)
    affine = torch.zeros(5, dtype=torch.int32)
    with pytest.raises(InputError, match="expected a symmetric weight beside a scale for each row"):
        int8_linear(*product, affine, None, *options, row_scale, row_zero)
    with use_backend("aten"), pytest.raises(InputError, match="values: expected a float dtype"):
        quantize_tokens(torch.zeros(2, 3, dtype=torch.int64), False, 0, 255)
    with use_backend("aten"), pytest.raises(InputError, match="expected codes from qmin to qmax"):
        quantize_tokens(torch.zeros(2, 3), False, 0, 300)
