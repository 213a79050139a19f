"""`onednn_linear` computes what `int8_linear` and GELU do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant import UnsupportedGraphError
from fxquant.ops import int8_linear
from fxquant.ops.onednn_linear import is_available, onednn_linear

needs_onednn = pytest.mark.skipif(not is_available(), reason="no oneDNN integer linear layer for this processor")


@needs_onednn
@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 40),
    k=st.integers(1, 80),
    o=st.integers(1, 40),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    gelu=st.sampled_from([None, "none", "tanh"]),
    seed=st.integers(0, 2**31),
)
def test_equals_int8_linear_and_gelu(
    rows: int, k: int, o: int, dtype: torch.dtype, gelu: str | None, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-128, 128, (2, rows, k), dtype=torch.int8, generator=generator)
    weight = torch.randint(-128, 128, (o, k), dtype=torch.int8, generator=generator)
    padded = F.pad(weight, (0, -k % 8, 0, -o % 8))
    scale, bias = torch.rand(o, generator=generator) / (128 * k), torch.randn(o, generator=generator)
    expected = int8_linear(codes, padded, scale, bias, None, None, torch.float32, False)
    expected = expected if gelu is None else F.gelu(expected, approximate=gelu)
    found = onednn_linear(codes, padded, scale, bias, dtype, gelu)
    assert found.shape == (2, rows, o)
    assert found.dtype is dtype
    rounding = 2**-8 if dtype is torch.bfloat16 else 2**-20
    assert torch.allclose(found.float(), expected, rtol=rounding, atol=2**-20)


@needs_onednn
def test_sums_are_exact_at_the_extremes() -> None:
    codes = torch.full((1, 20, 3072), -128, dtype=torch.int8)
    weight = torch.full((8, 3072), -128, dtype=torch.int8)
    result = onednn_linear(codes, weight, torch.ones(8), torch.zeros(8), torch.float32, None)
    assert torch.equal(result, torch.full((1, 20, 8), 128.0 * 128 * 3072))


def test_refuses_float16() -> None:
    codes = torch.zeros(4, 8, dtype=torch.int8)
    with pytest.raises(UnsupportedGraphError, match=r"float32 or bfloat16, not torch\.float16"):
        onednn_linear(codes, torch.zeros(8, 8, dtype=torch.int8), torch.ones(8), torch.zeros(8), torch.float16, None)
