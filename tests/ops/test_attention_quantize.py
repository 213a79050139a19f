"""`attention_quantize` is torch's attention with biases and window masks, its heads merged and quantised."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fxquant.kernels import use_backend
from fxquant.ops import attention_quantize, quantize
from tests.kernels.cpu.test_attention import exact_attention, make_heads, window_masks
from tests.support.cpu_operands import arguments, assert_codes, make_quantizer, quantizers, seeds


@given(
    images=st.integers(1, 2),
    heads=st.integers(1, 3),
    queries=st.integers(1, 9),
    keys=st.integers(1, 9),
    width=st.integers(1, 20),
    bias=st.sampled_from([None, 1, 3]),
    windows=st.sampled_from([None, 1, 3]),
    kind=quantizers(twin=False),
    seed=seeds,
)
def test_codes_of_exact_attention(
    images: int,
    heads: int,
    queries: int,
    keys: int,
    width: int,
    bias: int | None,
    windows: int | None,
    kind: tuple[int, str, bool],
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    operands = make_heads(generator, images * (windows or 1), heads, queries, keys, width, torch.float32)
    added = None if bias is None else torch.randn(1 if bias == 1 else heads, queries, keys, generator=generator)
    mask = None if windows is None else window_masks(generator, windows, queries, keys)
    quantizer = make_quantizer(generator, heads * width, *kind, reach=1.0)
    exact, error = exact_attention(*operands, 0.3, added, mask)
    with use_backend("aten"):
        found = attention_quantize(*operands, 0.3, added, mask, *arguments(quantizer))
    assert found.shape == (operands[0].shape[0], queries, heads * width)
    assert_codes(found, exact, error, quantizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_close_to_the_fused_kernel_of_torch(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = make_heads(generator, 4, 2, 9, 9, 8, dtype)
    bias, mask = torch.randn(2, 9, 9, generator=generator), window_masks(generator, 2, 9, 9)
    scale = torch.tensor(0.05)
    y = F.scaled_dot_product_attention(q, k, v, (bias + mask.repeat(2, 1, 1)[:, None]).to(dtype), scale=0.3)
    expected = quantize(y.transpose(1, 2).flatten(2), scale, None, -128, 127)
    with use_backend("aten"):
        found = attention_quantize(q, k, v, 0.3, bias, mask, scale, None, -128, 127)
    assert (found.int() - expected.int()).abs().max() <= 1
    assert (found != expected).float().mean() <= (0.002 if dtype is torch.float32 else 0.2)


def test_image_b_reads_mask_b_of_its_windows() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = make_heads(generator, 6, 2, 5, 5, 4, torch.float32)
    masks = window_masks(generator, 3, 5, 5)
    scale = torch.tensor(0.02)

    def codes(index: slice, mask: Tensor | None) -> Tensor:
        return attention_quantize(q[index], k[index], v[index], 0.5, None, mask, scale, None, -128, 127)

    with use_backend("aten"):
        found = codes(slice(None), masks)
        for image in range(6):
            assert torch.equal(found[image : image + 1], codes(slice(image, image + 1), masks[image % 3][None]))


def test_the_columns_of_a_head_lie_side_by_side() -> None:
    v = torch.arange(6.0).reshape(1, 3, 1, 2)  # (B, H, M, D): one key
    q = k = torch.zeros(1, 3, 1, 2)
    with use_backend("aten"):
        found = attention_quantize(q, k, v, 1.0, None, None, torch.tensor(1.0), None, -128, 127)
    assert found.tolist() == [[[0, 1, 2, 3, 4, 5]]]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_torch_attends_with_bias_and_mask(biased: bool, masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 6, 2, 5, 8, generator=generator).unbind()
    bias = torch.randn(2, 5, 5, generator=generator) if biased else None
    mask = torch.randn(3, 5, 5, generator=generator) if masked else None
    expected, _ = exact_attention(q, k, v, 0.3, bias, mask)  # heads merged
    module = importlib.import_module("fxquant.ops.attention_quantize")  # the package has the function under this name
    found = module._attend(q, k, v, 0.3, bias, mask).transpose(1, 2).flatten(2)
    torch.testing.assert_close(found.double(), expected, rtol=1.3e-6, atol=1e-5)
