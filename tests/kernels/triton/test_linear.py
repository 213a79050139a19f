"""`linear` gives the same bits as separate operators: product, scale, bias, residual; and the same codes behind GELU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant import ops
from fxquant.kernels import use_backend
from tests.support.triton_interpreter import Kernels
from tests.support.triton_operands import (
    DTYPES,
    assert_codes_of,
    padded,
    random_codes,
    random_quantizer,
    reference_codes,
)

sizes = st.integers(1, 70)
seeds = st.integers(0, 2**31)
dtypes = st.sampled_from(DTYPES)


@settings(max_examples=16)
@given(m=sizes, k=sizes, o=sizes, dtype=dtypes, twin=st.booleans(), residual=st.booleans(), seed=seeds)
def test_floats_are_the_same_bits(
    kernels: Kernels, m: int, k: int, o: int, dtype: torch.dtype, twin: bool, residual: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes, weight = random_codes(generator, 2, m, k), padded(random_codes(generator, o, k))
    scale, low = torch.rand(o, generator=generator) / (64 * k), -torch.rand(o, generator=generator) / (512 * k)
    bias = torch.randn(o, generator=generator)
    other = torch.randn(2, m, o, generator=generator).to(dtype) if residual else None
    with use_backend("aten"):
        if twin:
            expected = ops.int8_linear_twin(codes, weight, scale, low, bias, dtype, False)
        else:
            expected = ops.int8_linear(codes, weight, scale, bias, None, None, dtype, False)
        expected = expected if other is None else other + expected
    found = kernels("linear", codes, weight, scale, bias, dtype, low=low if twin else None, residual=other)
    assert found.dtype is dtype
    assert torch.equal(found, expected)


@settings(max_examples=8)
@given(m=sizes, k=sizes, o=sizes, dtype=dtypes, residual=st.booleans(), seed=seeds)
def test_rows_with_their_own_scales_are_the_same_bits(
    kernels: Kernels, m: int, k: int, o: int, dtype: torch.dtype, residual: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes, weight = random_codes(generator, 2, m, k), padded(random_codes(generator, o, k))
    scale, bias = torch.rand(o, generator=generator) / (64 * k), torch.randn(o, generator=generator)
    rows = (torch.rand(2, m, generator=generator), torch.randint(-128, 128, (2, m), generator=generator).int())
    other = torch.randn(2, m, o, generator=generator).to(dtype) if residual else None
    with use_backend("aten"):
        expected = ops.int8_linear(codes, weight, scale, bias, None, None, dtype, False, *rows)
        expected = expected if other is None else other + expected
    found = kernels("linear", codes, weight, scale, bias, dtype, residual=other, rows=rows)
    assert torch.equal(found, expected)


@settings(max_examples=12)
@given(
    m=sizes,
    k=sizes,
    o=sizes,
    dtype=dtypes,
    approximate=st.sampled_from([None, "none", "tanh"]),
    kind=st.sampled_from(["signed", "unsigned", "gelu"]),
    noise=st.booleans(),
    seed=seeds,
)
def test_codes_are_those_of_separate_operators(
    kernels: Kernels,
    m: int,
    k: int,
    o: int,
    dtype: torch.dtype,
    approximate: str | None,
    kind: str,
    noise: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes, weight = random_codes(generator, m, k), padded(random_codes(generator, o, k))
    scale, bias = torch.rand(o, generator=generator) / (64 * k), torch.randn(o, generator=generator)
    quantizer = random_quantizer(generator, kind, o if noise else None)
    found = kernels("linear", codes, weight, scale, bias, dtype, gelu=approximate, quantizer=quantizer)
    with use_backend("aten"):
        y = ops.int8_linear(codes, weight, scale, bias, None, None, dtype, False)
        if approximate is None:
            assert torch.equal(found, reference_codes(y, quantizer))
        else:
            # Error functions differ by a rounding from one library to the next.
            assert_codes_of(found, F.gelu(y.double(), approximate=approximate), dtype, quantizer, 2**-20)


@pytest.mark.parametrize("k", [128, 144])
def test_the_largest_sums_do_not_overflow(kernels: Kernels, k: int) -> None:
    codes, weight = torch.full((20, 32 * k), -128, dtype=torch.int8), torch.full((3, 32 * k), -128, dtype=torch.int8)
    one, zero = torch.ones(3), torch.zeros(3)
    found = kernels("linear", codes, weight, one, zero, torch.float32)
    assert torch.equal(found, torch.full((20, 3), 128.0 * 128 * 32 * k))


def test_operands_need_not_be_contiguous(kernels: Kernels) -> None:
    generator = torch.Generator().manual_seed(0)
    codes, weight = random_codes(generator, 40, 9, 6), padded(random_codes(generator, 5, 40))
    scale, bias = torch.rand(5), torch.randn(5)
    views = [codes.permute(1, 2, 0), codes.permute(2, 1, 0), random_codes(generator, 9, 80)[:, ::2]]
    views += [random_codes(generator, 9, 80)[:, 3:43], random_codes(generator, 18, 40)[::2]]
    for view in views:
        with use_backend("aten"):
            expected = ops.int8_linear(view, weight, scale, bias, None, None, torch.float32, False)
        assert torch.equal(kernels("linear", view, weight, scale, bias, torch.float32), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("m", "k", "o"), [(1, 768, 1000), (197, 768, 3072), (8 * 197, 3072, 768), (50176, 96, 288)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("twin", [False, True])
def test_layers_of_vision_transformers(m: int, k: int, o: int, dtype: torch.dtype, twin: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    codes, weight = (random_codes(generator, *shape).cuda() for shape in ((m, k), (o, k)))
    scale, low, bias = torch.rand(o).cuda() / (64 * k), torch.rand(o).cuda() / (512 * k), torch.randn(o).cuda()
    above, below = (part.double() @ weight.double().T for part in (codes.clamp(min=0), codes.clamp(max=0)))
    expected = above.float() * scale + below.float() * low if twin else (above + below).float() * scale
    from fxquant.kernels.triton import operators

    found = operators.linear(codes, weight, scale, bias, dtype, low=low if twin else None)
    assert torch.equal(found, (expected + bias).to(dtype))
