"""`layer_norm_quantize` is a layer norm in float32 and the quantiser behind it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fxquant.kernels import use_backend
from fxquant.ops import layer_norm_quantize, quantize
from tests.support.cpu_operands import arguments, make_quantizer, quantizers, seeds


@given(
    shape=st.lists(st.integers(0, 6), max_size=3),
    width=st.integers(1, 20),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    affine=st.booleans(),
    kind=quantizers(twin=False),
    seed=seeds,
)
def test_equals_its_parts(
    shape: list[int], width: int, dtype: torch.dtype, affine: bool, kind: tuple[int, str, bool], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, width, generator=generator).to(dtype)
    weight, bias = torch.rand(2, width, generator=generator).unbind() if affine else (None, None)
    quantizer = make_quantizer(generator, width, *kind)
    scale, zero_point, qmin, qmax, noise = arguments(quantizer)
    with use_backend("aten"):
        found = layer_norm_quantize(x, weight, bias, 1e-6, *arguments(quantizer))
        y = F.layer_norm(x.float(), (width,), weight, bias, 1e-6)
        expected = quantize(y, scale, zero_point, qmin, qmax, None, noise)
    assert found.dtype is torch.int8
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_and_not_computed_in(dtype: torch.dtype) -> None:
    x = torch.randn(400, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    scale = torch.tensor(0.02)
    with use_backend("aten"):
        found = layer_norm_quantize(x, None, None, 1e-6, scale, None, -128, 127)
        assert torch.equal(found, layer_norm_quantize(x.float(), None, None, 1e-6, scale, None, -128, 127))
        rounded = quantize(F.layer_norm(x, (32,), eps=1e-6), scale, None, -128, 127)
    assert not torch.equal(found, rounded)
