"""`int8_linear` equals exact integer arithmetic, whatever the codes, sizes and zero points."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.ops import int8_linear
from fxquant.ops.int8_linear import int_mm

sizes = st.integers(1, 40)
seeds = st.integers(0, 2**31)


def codes(generator: torch.Generator, *shape: int) -> Tensor:
    """Return codes of the full range; both ends occur, -128 too."""
    values = torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)
    values.view(-1)[0] = -128
    values.view(-1)[-1] = 127 if values.numel() > 1 else -128
    return values


def padded(weight: Tensor) -> Tensor:
    """Pad ``(O, K)`` with zeros to multiples of 8, as a lowering pass stores it."""
    return torch.nn.functional.pad(weight, (0, -weight.shape[1] % 8, 0, -weight.shape[0] % 8))


def linear(x: Tensor, weight: Tensor, zero_w: Tensor | None = None, zero_x: Tensor | None = None) -> Tensor:
    """Return the accumulators of `int8_linear`, which a scale of 1 and a bias of 0 show as they are."""
    one, zero = torch.ones(weight.shape[0]), torch.zeros(weight.shape[0])
    return int8_linear(x, padded(weight), one, zero, zero_w, zero_x, torch.float64, False)


@settings(max_examples=100)
@given(m=sizes, k=sizes, o=sizes, seed=seeds, pad=st.booleans())
def test_products_are_exact(m: int, k: int, o: int, seed: int, pad: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, weight = codes(generator, m, k), codes(generator, o, k)
    acc = int_mm(x, padded(weight), pad)
    assert acc.dtype is torch.int32
    assert acc.shape == (m, o + -o % 8)
    assert torch.equal(acc[:, :o].long(), x.long() @ weight.long().T)
    assert not acc[:, o:].any()


@settings(max_examples=60)
@given(m=sizes, k=sizes, o=sizes, seed=seeds, shifted=st.booleans())
def test_affine_weights_are_exact(m: int, k: int, o: int, seed: int, shifted: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, weight = codes(generator, m, k), codes(generator, o, k)
    zero_w = torch.randint(-128, 128, (o,), generator=generator, dtype=torch.int32)
    zero_x = torch.randint(-128, 128, (), generator=generator, dtype=torch.int32) if shifted else None
    # At most 40 * 255 * 383, so that float32 holds every accumulator.
    found = linear(x, weight, zero_w, zero_x)
    inputs = x.long() - (0 if zero_x is None else int(zero_x))
    expected = x.long() @ weight.long().T - inputs.sum(1, keepdim=True) * zero_w.long()
    assert torch.equal(found, expected.double())


def test_the_largest_accumulators_do_not_overflow() -> None:
    k = 4 * 1280
    x, weight = torch.full((2, k), -128, dtype=torch.int8), torch.full((3, k), -128, dtype=torch.int8)
    assert torch.equal(int_mm(x, padded(weight), False)[:, :3].long(), torch.full((2, 3), 128 * 128 * k))


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 3, 4, 5)])
def test_any_number_of_leading_axes(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = codes(generator, *shape), codes(generator, 7, 5)
    found = linear(x, weight)
    assert found.shape == (*shape[:-1], 7)
    assert torch.equal(found, (x.double() @ weight.double().T))


def test_codes_need_not_be_contiguous() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = codes(generator, 8, 3).t(), codes(generator, 7, 8)
    assert torch.equal(linear(x, weight), x.double() @ weight.double().T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scale_and_bias_are_applied_in_float32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = codes(generator, 3, 8), codes(generator, 5, 8)
    scale, bias = torch.rand(5) / 1000, torch.randn(5)
    found = int8_linear(x, padded(weight), scale, bias, None, None, dtype, True)
    acc = (x.long() @ weight.long().T).float()
    assert found.dtype is dtype
    # A fused multiply-add rounds once, a multiplication and an addition twice.
    tolerance = 2**-23 * (acc.abs() * scale + bias.abs()) + torch.finfo(dtype).eps * found.float().abs()
    assert bool(((found.float() - (acc * scale + bias)).abs() <= tolerance).all())
