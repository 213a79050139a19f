"""Codes of probabilities are stored as int8 and read back, and the integer softmax is the published one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from fxquant.numerics import arithmetic
from fxquant.ops import dequantize_log2, log_int_softmax, quantize_log2

RECORDED = load_file(Path(__file__).parents[1] / "data" / "lis.safetensors")
CASES = [f"case{i}" for i in range(10)]
bits = st.integers(2, 7)


def scores(spread: float, seed: int, heads: int = 2) -> tuple[Tensor, Tensor]:
    """Return scores ``(2, heads, 5, 6)`` that are multiples of a scale, and the scale."""
    scale = torch.tensor(spread / 100)
    steps = torch.randint(-128, 128, (2, heads, 5, 6), generator=torch.Generator().manual_seed(seed))
    return steps * scale, scale


@given(b=bits, spread=st.floats(0.1, 50), seed=st.integers(0, 2**31))
def test_stored_codes_are_those_of_the_arithmetic(b: int, spread: float, seed: int) -> None:
    qmax, x = 2**b - 1, F.softmax(scores(spread, seed)[0], -1)
    codes = quantize_log2(x, qmax)
    assert codes.dtype is torch.int8
    assert torch.equal(codes.float(), arithmetic.quantize_log2(x, qmax))
    values = dequantize_log2(codes)
    assert values.dtype is torch.float32
    assert torch.equal(values, arithmetic.dequantize_log2(codes.float()))


@given(b=bits, spread=st.floats(0.1, 50), seed=st.integers(0, 2**31), per_head=st.booleans())
def test_stored_codes_of_the_softmax_are_those_of_the_arithmetic(
    b: int, spread: float, seed: int, per_head: bool
) -> None:
    (x, scale), qmax = scores(spread, seed), 2**b - 1
    scale = torch.stack([scale, scale * 2]) if per_head else scale
    codes = log_int_softmax(x, scale, qmax)
    assert codes.dtype is torch.int8
    assert torch.equal(codes.float(), arithmetic.log_int_softmax(x, scale, qmax))
    assert int(codes.min()) >= -1
    assert int(codes.max()) <= qmax


def test_every_code_survives_a_round_trip() -> None:
    codes = torch.arange(-1, 127, dtype=torch.int8)  # 2^-127 is subnormal, which a CPU may flush
    assert quantize_log2(dequantize_log2(codes), 127).equal(codes)


@pytest.mark.parametrize("case", CASES)
def test_softmax_as_published(case: str) -> None:
    x, scale = RECORDED[f"{case}/x"], RECORDED[f"{case}/scale"]
    assert dequantize_log2(log_int_softmax(x, scale, 15)).equal(RECORDED[f"{case}/u4/probs"])
    # exponents to 255 do not fit an int8; the arithmetic has them
    eight = arithmetic.dequantize_log2(arithmetic.log_int_softmax(x, scale, 255))
    assert eight.equal(RECORDED[f"{case}/u8/probs"])


def test_softmax_with_a_scale_per_head_as_published() -> None:
    x, scale = RECORDED["perhead/x"], RECORDED["perhead/scale"]
    assert dequantize_log2(log_int_softmax(x, scale, 15)).equal(RECORDED["perhead/u4/probs"])
    for head in range(len(scale)):
        alone = log_int_softmax(x[:, head : head + 1], scale[head], 15)
        assert alone.equal(log_int_softmax(x, scale, 15)[:, head : head + 1])


@pytest.mark.parametrize("case", CASES)
def test_exponentials_as_published(case: str) -> None:
    x, scale = RECORDED[f"{case}/x"], RECORDED[f"{case}/scale"]
    steps = x / scale
    found = arithmetic.integer_exponential(steps - steps.amax(-1, keepdim=True), scale)
    torch.testing.assert_close(found, RECORDED[f"{case}/exp_int"], rtol=1e-5, atol=0)
    total = RECORDED[f"{case}/exp_int_sum"]
    torch.testing.assert_close(found.sum(-1, keepdim=True), total, rtol=1e-5, atol=0)
