"""The C++ attention gives the codes of an exact one, except where a value sits on a boundary."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.kernels import cpu, use_backend
from fxquant.ops import attention_quantize
from tests.support.cpu_operands import arguments, assert_codes, dtypes, make_quantizer, quantizers, seeds
from tests.support.needs_cpu_kernels import needs_kernels

pytestmark = needs_kernels
Heads = tuple[Tensor, Tensor, Tensor]


def exact_attention(
    q: Tensor, k: Tensor, v: Tensor, factor: float, bias: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return ``(B, N, H D)`` in float64, and how far float32 sums and the roundings to the dtype of q may be from it."""
    wide = [t.double() for t in (q, k, v)]
    scores, size = wide[0] @ wide[1].mT * factor, wide[0].abs() @ wide[1].mT.abs() * abs(factor)
    addends = [] if bias is None else [bias.double()]
    if mask is not None:
        addends.append(mask.double().repeat(q.shape[0] // mask.shape[0], 1, 1)[:, None])
    for addend in addends:
        scores, size = scores + addend, size + addend.abs().nan_to_num(posinf=0)
    p = scores.softmax(-1)
    context, weight = p @ wide[2], p @ wide[2].abs()
    # Scores: sums of D products. They are exponents, so that their errors are relative ones of the probabilities, which two
    # numbers of the dtype, 2^-20 of the exponential function and sums over the keys add to.
    half = 2.0**-8 if q.dtype is torch.bfloat16 else 2.0**-23
    deviation = (q.shape[-1] + 4) * 2.0**-24 * size.amax(-1, keepdim=True)
    error = (2 * deviation + 2 * half + 2.0**-20 + k.shape[2] * 2.0**-24) * weight + half * context.abs()
    return context.transpose(1, 2).flatten(2), error.transpose(1, 2).flatten(2)


def check(
    heads: Heads, factor: float, bias: Tensor | None, mask: Tensor | None, quantizer: cpu.Quantizer
) -> tuple[Tensor, Tensor]:
    exact, error = exact_attention(*heads, factor, bias, mask)
    found = cpu.attention_quantize(*heads, factor, bias, mask, quantizer)
    assert_codes(found, exact, error, quantizer)
    with use_backend("aten"):
        expected = attention_quantize(*heads, factor, bias, mask, *arguments(quantizer))
    return found, expected


def make_heads(
    generator: torch.Generator, batch: int, heads: int, queries: int, keys: int, width: int, dtype: torch.dtype
) -> Heads:
    q, k, v = (torch.randn(batch, heads, n, width, generator=generator) for n in (queries, keys, keys))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def window_masks(generator: torch.Generator, windows: int, queries: int, keys: int) -> Tensor:
    """Return masks of 0 and -inf that leave every query its own key, or the last one."""
    mask = torch.zeros(windows, queries, keys)
    mask[torch.rand(windows, queries, keys, generator=generator) < 0.4] = -float("inf")
    mask[:, torch.arange(queries), torch.arange(queries).clamp(max=keys - 1)] = 0
    return mask


@settings(max_examples=80)
@given(
    images=st.integers(1, 2),
    heads=st.integers(1, 3),
    queries=st.integers(1, 30),
    keys=st.one_of(st.integers(1, 40), st.sampled_from([49, 50, 64, 197])),
    width=st.integers(1, 8).map(lambda n: 16 * n),
    dtype=dtypes,
    bias=st.sampled_from([None, 1, 2]),
    windows=st.sampled_from([None, 1, 3]),
    kind=quantizers(twin=False),
    seed=seeds,
)
def test_codes(
    images: int,
    heads: int,
    queries: int,
    keys: int,
    width: int,
    dtype: torch.dtype,
    bias: int | None,
    windows: int | None,
    kind: tuple[int, str, bool],
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    operands = make_heads(generator, images * (windows or 1), heads, queries, keys, width, dtype)
    added = None if bias is None else torch.randn(1 if bias == 1 else heads, queries, keys, generator=generator)
    mask = None if windows is None else window_masks(generator, windows, queries, keys)
    quantizer = make_quantizer(generator, heads * width, *kind, reach=1.0)
    found, expected = check(operands, width**-0.5, added, mask, quantizer)
    if dtype is torch.float32:
        assert (found != expected).sum() <= 1 + 0.002 * found.numel()
    else:  # torch rounds the scores to bfloat16
        assert (found.int() - expected.int()).abs().max() <= 1 + 0.1 / float(quantizer.scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_key_is_the_answer_of_every_query(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = make_heads(generator, 2, 3, 7, 1, 32, dtype)
    quantizer = make_quantizer(generator, 96, 8, "unsigned", True)
    found, expected = check((q, k, v), 0.2, None, None, quantizer)
    assert torch.equal(found, expected)
    assert torch.equal(found, found[:, :1].expand_as(found))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_views_of_one_projection(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, 9, 3, 2, 32, generator=generator).to(dtype)
    quantizer = make_quantizer(generator, 64, 8, "affine", False)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    found, _ = check((q, k, v), 0.2, None, None, quantizer)
    own = cpu.attention_quantize(q.contiguous(), k.contiguous(), v.contiguous(), 0.2, None, None, quantizer)
    assert torch.equal(found, own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operands_that_do_not_lie_in_one_piece(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    quantizer = make_quantizer(generator, 64, 8, "affine", False)
    q, k, v = (torch.randn(3, 2, 32, 9, generator=generator).to(dtype).mT for _ in range(3))
    found, _ = check((q, k[:, :, ::2], v[:, :, ::2]), 0.2, None, None, quantizer)
    assert found.shape == (3, 9, 64)
    every = torch.randn(3, 2, 9, 64, generator=generator).to(dtype)[..., ::2]
    check((every, k, v), 0.2, None, None, quantizer)
    check((q, k[:1].expand(3, -1, -1, -1), v[:1].expand(3, -1, -1, -1)), 0.2, None, None, quantizer)


@pytest.mark.parametrize("size", [30.0, 1e4])
def test_large_scores_do_not_overflow(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = make_heads(generator, 1, 2, 8, 20, 16, torch.float32)
    quantizer = make_quantizer(generator, 32, 8, "affine", False)
    found = cpu.attention_quantize(q * size, k, v, 1.0, None, None, quantizer)
    with use_backend("aten"):
        expected = attention_quantize(q * size, k, v, 1.0, None, None, *arguments(quantizer))
    assert (found != expected).float().mean() < 0.05


def test_no_images() -> None:
    generator = torch.Generator().manual_seed(0)
    heads = make_heads(generator, 0, 2, 5, 5, 16, torch.float32)
    found = cpu.attention_quantize(*heads, 0.25, None, None, make_quantizer(generator, 32, 8, "affine", False))
    assert (found.shape, found.dtype) == ((0, 5, 32), torch.int8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_give_the_same(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    heads = make_heads(generator, 3, 3, 20, 50, 48, dtype)
    quantizer = make_quantizer(generator, 144, 8, "unsigned", True)
    bias, mask = torch.randn(3, 20, 50, generator=generator), window_masks(generator, 3, 20, 50)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(cpu.attention_quantize(*heads, 0.2, bias, mask, quantizer))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_result_in_the_dtype_of_the_operands(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    heads = make_heads(generator, 2, 2, 9, 9, 16, dtype)
    found = torch.ops.fxquant.cpu_attention(*heads, 0.25, None, None, None, None, 0, 0, None)
    exact, error = exact_attention(*heads, 0.25, None, None)
    assert found.dtype is dtype
    assert bool(((found.double() - exact).abs() <= error).all())
