"""`int8_linear_gelu_quantize` and its twin are a product, GELU and a quantiser."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fxquant.kernels import use_backend
from fxquant.ops import (
    int8_linear,
    int8_linear_gelu_quantize,
    int8_linear_gelu_quantize_twin,
    quantize,
    quantize_twin,
)
from tests.support.cpu_operands import arguments, make_codes, make_quantizer, make_weight, quantizers, seeds

sizes = st.integers(1, 20)


@given(
    m=st.integers(0, 20),
    k=sizes,
    o=sizes,
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    approximate=st.sampled_from(["none", "tanh"]),
    kind=quantizers(),
    seed=seeds,
)
def test_equals_its_parts(
    m: int, k: int, o: int, dtype: torch.dtype, approximate: str, kind: tuple[int, str, bool], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes, weight = make_codes(generator, 2, m, k), make_weight(generator, o, k)
    scale, bias = torch.rand(o, generator=generator) / 1000, torch.randn(o, generator=generator)
    q = make_quantizer(generator, o, *kind)
    product = (codes, weight, scale, bias)
    with use_backend("aten"):
        y = F.gelu(int8_linear(*product, None, None, dtype, True), approximate=approximate)
        if q.low is not None and q.split is not None:
            twin: tuple[Any, ...] = (q.scale, q.low, q.split, q.qmin, q.qmax, q.noise)
            found = int8_linear_gelu_quantize_twin(*product, approximate, dtype, True, *twin)
            expected = quantize_twin(y, *twin)
        else:
            found = int8_linear_gelu_quantize(*product, approximate, dtype, True, *arguments(q))
            expected = quantize(y, q.scale, q.zero_point, q.qmin, q.qmax, None, q.noise)
    assert (found.dtype, found.shape) == (torch.int8, (2, m, o))
    assert torch.equal(found, expected)
