"""`int8_linear_twin` equals exact integer arithmetic on both ranges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.ops import int8_linear_twin
from tests.ops.test_int8_linear import codes, padded, seeds, sizes


@settings(max_examples=100)
@given(m=sizes, k=sizes, o=sizes, seed=seeds, pad=st.booleans())
def test_each_range_is_an_exact_product(m: int, k: int, o: int, seed: int, pad: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, weight = codes(generator, m, k), codes(generator, o, k)
    one, none = torch.ones(o), torch.zeros(o)
    for high, low, part in ((one, none, x.clamp(min=0)), (none, one, x.clamp(max=0)), (one, one, x)):
        found = int8_linear_twin(x, padded(weight), high, low, none, torch.float64, pad)
        assert found.shape == (m, o)
        assert torch.equal(found, part.double() @ weight.double().T)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scales_and_bias_are_applied_in_float32(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = codes(generator, *shape), codes(generator, 7, 5)
    high, low, bias = torch.rand(7) / 1000, -torch.rand(7) / 9000, torch.randn(7)
    found = int8_linear_twin(x, padded(weight), high, low, bias, dtype, True)
    above, below = (part.float() @ weight.float().T for part in (x.clamp(min=0), x.clamp(max=0)))
    expected = above * high + below * low + bias
    assert (found.dtype, found.shape) == (dtype, (*shape[:-1], 7))
    # Fused multiply-adds round less often.
    tolerance = 2**-22 * ((above * high).abs() + (below * low).abs() + bias.abs())
    tolerance = tolerance + torch.finfo(dtype).eps * found.float().abs()
    assert bool(((found.float() - expected).abs() <= tolerance).all())
