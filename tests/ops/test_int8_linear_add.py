"""`int8_linear_add` and its twin are a product and a sum, rounded to the dtype after each."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxquant.kernels import use_backend
from fxquant.ops import int8_linear, int8_linear_add, int8_linear_twin, int8_linear_twin_add
from tests.support.cpu_operands import make_codes, make_weight, seeds

dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
sizes = st.integers(1, 20)


@given(m=st.integers(0, 20), k=sizes, o=sizes, dtype=dtypes, twin=st.booleans(), pad=st.booleans(), seed=seeds)
def test_equals_its_parts(m: int, k: int, o: int, dtype: torch.dtype, twin: bool, pad: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes, weight = make_codes(generator, 2, m, k), make_weight(generator, o, k)
    scale, low, bias = torch.rand(3, o, generator=generator).unbind()
    residual = torch.randn(2, m, o, generator=generator).to(dtype)
    with use_backend("aten"):
        if twin:
            found = int8_linear_twin_add(codes, weight, scale / 1000, low, bias, residual, dtype, pad)
            expected = residual + int8_linear_twin(codes, weight, scale / 1000, low, bias, dtype, pad)
        else:
            found = int8_linear_add(codes, weight, scale / 1000, bias, residual, dtype, pad)
            expected = residual + int8_linear(codes, weight, scale / 1000, bias, None, None, dtype, pad)
    assert (found.dtype, found.shape) == (dtype, (2, m, o))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", ["auto", "aten"])
def test_the_residual_is_left_as_it_is(backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    codes, weight = make_codes(generator, 20, 8), make_weight(generator, 8, 8)
    residual = torch.randn(20, 8, generator=generator)
    before = residual.clone()
    with use_backend(backend):
        int8_linear_add(codes, weight, torch.ones(8), torch.zeros(8), residual, torch.float32, False)
    assert torch.equal(residual, before)
