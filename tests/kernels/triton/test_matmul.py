"""`matmul` gives the same bits as `fxquant.ops.int8_matmul` and `int8_matmul_twin`."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant import ops
from fxquant.kernels import use_backend
from tests.ops.test_int8_matmul import BATCHES, has_heads, shifts
from tests.support.triton_interpreter import Kernels
from tests.support.triton_operands import DTYPES, random_codes

sizes = st.integers(1, 50)
kinds = st.sampled_from(["none", "tensor", "head"])


@settings(max_examples=16)
@given(
    batch=st.sampled_from(BATCHES),
    n=sizes,
    k=sizes,
    m=sizes,
    kind_a=kinds,
    kind_b=kinds,
    twin=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_results_are_the_same_bits(
    kernels: Kernels,
    batch: tuple[tuple[int, ...], ...],
    n: int,
    k: int,
    m: int,
    kind_a: str,
    kind_b: str,
    twin: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    per_head = has_heads(batch, kind_a, kind_b)
    kind_a, kind_b = (kind_a, kind_b) if per_head else ("tensor", "tensor")
    generator = torch.Generator().manual_seed(seed)
    a, b = random_codes(generator, *batch[0], n, k), random_codes(generator, *batch[1], m, k).mT
    zero_a, zero_b = shifts(generator, kind_a), shifts(generator, kind_b)
    shape = (3, 1, 1) if "head" in (kind_a, kind_b) else ()
    scale, low = (torch.rand(shape, generator=generator) / 2000 for _ in range(2))
    with use_backend("aten"):
        if twin:
            found = kernels("matmul", a, b, scale, -low, None, zero_b, dtype)
            expected = ops.int8_matmul_twin(a, b, scale, -low, zero_b, dtype)
        else:
            found = kernels("matmul", a, b, scale, None, zero_a, zero_b, dtype)
            expected = ops.int8_matmul(a, b, scale, zero_a, zero_b, dtype)
    assert (found.dtype, found.shape) == (dtype, expected.shape)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_heads_of_a_projection_are_read_where_they_are(kernels: Kernels, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = random_codes(generator, 2, 19, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, N, D)
    scale = torch.tensor(0.001)
    for a, b in ((q, k.transpose(-2, -1)), (random_codes(generator, 2, 4, 19, 19), v)):
        with use_backend("aten"):
            expected = ops.int8_matmul(a, b, scale, None, None, dtype)
        assert torch.equal(kernels("matmul", a, b, scale, None, None, None, dtype), expected)
