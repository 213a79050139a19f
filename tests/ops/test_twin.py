"""Twin-uniform codes: two ranges that meet at the split, the byte layout, and the published form."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.numerics.arithmetic import GELU_MINIMUM
from fxquant.ops import dequantize_twin, fake_quantize_summed_twin, pack_twin, quantize_twin, unpack_twin

U = 2.0**-24
bits = st.integers(2, 8)
seeds = st.integers(0, 2**31)
Arguments = tuple[Tensor, Tensor, Tensor, int, int]


def softmax_arguments(b: int, exponent: float) -> Arguments:
    """Return the arguments behind `x` for probabilities that are split at ``2^-exponent``."""
    qmax = 2 ** (b - 1) - 1
    split = torch.tensor(2.0**-exponent)
    return torch.tensor(1 / qmax), -split / qmax, split, -qmax, qmax


def gelu_arguments(b: int, largest: float, published: bool = False) -> Arguments:
    """Return the arguments behind `x` for GELU outputs up to `largest`."""
    qmax = 2 ** (b - 1) - 1
    qmin = -qmax - published
    return torch.tensor(largest / qmax), torch.tensor(GELU_MINIMUM / qmin), torch.zeros(()), qmin, qmax


def exponents() -> st.SearchStrategy[float]:
    return st.integers(0, 38).map(lambda n: n / 2)


def probabilities(seed: int, split: Tensor) -> Tensor:
    """Return values of ``[0, 1]`` of every magnitude, with both ends, the split and its neighbours."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(200, generator=generator) * torch.exp2(-torch.randint(0, 24, (200,), generator=generator).float())
    near = torch.nextafter(split, torch.zeros(()))
    return torch.cat([x, torch.stack([torch.zeros(()), torch.ones(()), split, near])])


@settings(max_examples=200)
@given(b=bits, exponent=exponents(), seed=seeds)
def test_softmax_comes_back_to_half_a_scale(b: int, exponent: float, seed: int) -> None:
    arguments = high, low, split, qmin, qmax = softmax_arguments(b, exponent)
    x = probabilities(seed, split)
    codes = quantize_twin(x, *arguments)
    assert codes.dtype is torch.int8
    assert qmin <= int(codes.min()) <= int(codes.max()) <= qmax
    error = (dequantize_twin(codes, *arguments).double() - x.double()).abs()
    scale = torch.where(x >= split, high, -low).double()
    assert bool((error <= scale / 2 + 4 * U * x).all())


@settings(max_examples=200)
@given(b=bits, largest=st.floats(1e-3, 1e3), published=st.booleans(), seed=seeds)
def test_gelu_comes_back_to_half_a_scale(b: int, largest: float, published: bool, seed: int) -> None:
    arguments = high, low, _, qmin, qmax = gelu_arguments(b, largest, published)
    generator = torch.Generator().manual_seed(seed)
    above = torch.rand(100, generator=generator) * largest
    below = torch.rand(100, generator=generator) * GELU_MINIMUM
    x = torch.cat([above, below, torch.tensor([0.0, largest, GELU_MINIMUM])])
    codes = quantize_twin(x, *arguments)
    assert qmin <= int(codes.min()) <= int(codes.max()) <= qmax
    error = (dequantize_twin(codes, *arguments).double() - x.double()).abs()
    scale = torch.where(x >= 0, high, low).double()
    assert bool((error <= scale / 2 + 4 * U * x.abs()).all())


@settings(max_examples=100)
@given(b=bits, exponent=exponents(), seed=seeds)
def test_the_sign_of_a_code_names_its_range(b: int, exponent: float, seed: int) -> None:
    arguments = *_, split, _, _ = softmax_arguments(b, exponent)
    x = probabilities(seed, split)
    codes = quantize_twin(x, *arguments)
    assert not bool((codes[x < split] > 0).any())
    assert not bool((codes[x >= split] < 0).any())
    gelu = gelu_arguments(b, 3.0)
    x = torch.cat([torch.rand(50) * 3, torch.rand(50) * GELU_MINIMUM])
    codes = quantize_twin(x, *gelu)
    assert not bool((codes[x < 0] > 0).any())
    assert not bool((codes[x > 0] < 0).any())


@given(b=bits, exponent=exponents(), largest=st.floats(1e-3, 1e3))
def test_zero_maps_to_zero(b: int, exponent: float, largest: float) -> None:
    for arguments in (softmax_arguments(b, exponent), gelu_arguments(b, largest), gelu_arguments(b, largest, True)):
        codes = quantize_twin(torch.tensor([0.0, -0.0]), *arguments)
        assert codes.tolist() == [0, 0]
        assert dequantize_twin(codes, *arguments).tolist() == [0.0, 0.0]


@given(b=bits, exponent=exponents(), largest=st.floats(1e-3, 1e3))
def test_every_code_stands_for_a_value_that_it_is_the_code_of(b: int, exponent: float, largest: float) -> None:
    gelu = gelu_arguments(b, largest)
    codes = torch.arange(gelu[3], gelu[4] + 1).to(torch.int8)
    assert torch.equal(quantize_twin(dequantize_twin(codes, *gelu), *gelu), codes)
    softmax = softmax_arguments(b, exponent)
    values = dequantize_twin(codes, *softmax)
    again = quantize_twin(values, *softmax)
    # Multiples of the high scale below the split, and the split itself, have a code in the other range as well.
    own = torch.where(codes > 0, values >= softmax[2], values < softmax[2])
    assert torch.equal(again[own], codes[own])
    assert bool(((dequantize_twin(again, *softmax) - values).abs() <= softmax[0] / 2 * (1 + 4 * U)).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_arithmetic_is_float32_whatever_the_input(dtype: torch.dtype) -> None:
    arguments = softmax_arguments(8, 3)
    x = torch.linspace(0, 1, 500).to(dtype)
    codes = quantize_twin(x, *arguments)
    assert torch.equal(codes, quantize_twin(x.float(), *arguments))
    assert dequantize_twin(codes, *arguments).dtype is torch.float32


def test_ties_go_to_the_even_code() -> None:
    one, none = torch.ones(()), torch.zeros(())
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5])
    assert quantize_twin(x, one, one, none, -7, 7).tolist() == [0, 2, 2, 0, -2, -2]


def test_the_layout_has_the_range_on_top_of_the_magnitude() -> None:
    softmax = softmax_arguments(8, 2)
    x = torch.cat([torch.linspace(0, 1, 1001), torch.tensor([0.25])])
    k = torch.where(x >= 0.25, x / softmax[0], x / -softmax[1]).round().clamp(0, 127).to(torch.uint8)
    packed = pack_twin(quantize_twin(x, *softmax))
    assert packed.dtype is torch.uint8
    assert torch.equal(packed, (x >= 0.25).to(torch.uint8) << 7 | k)
    gelu = gelu_arguments(8, 4.0)
    x = torch.linspace(GELU_MINIMUM, 4, 1001)
    k = torch.where(x > 0, x / gelu[0], -x / gelu[1]).round().clamp(0, 127).to(torch.uint8)
    # What rounds to zero is zero, on either side.
    expected = torch.where(k == 0, 0, (x > 0).to(torch.uint8) << 7 | k)
    assert torch.equal(pack_twin(quantize_twin(x, *gelu)), expected.to(torch.uint8))


def test_packing_loses_nothing() -> None:
    codes = torch.arange(-127, 128).to(torch.int8)
    packed = pack_twin(codes)
    assert packed.unique().numel() == 255, "each code has a byte of its own; only 0x80 is unused"
    assert 0x80 not in packed.tolist()
    assert torch.equal(unpack_twin(packed), codes)
    assert unpack_twin(packed).dtype is torch.int8
    assert unpack_twin(torch.tensor([0x80], dtype=torch.uint8)).tolist() == [0]
    for shape in ((3, 5, 17), (0,), ()):
        some = torch.randint(-127, 128, shape, dtype=torch.int8)
        assert torch.equal(unpack_twin(pack_twin(some)), some)


def test_the_code_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="code -128 has no place in the twin layout"):
        pack_twin(torch.tensor([3, -128], dtype=torch.int8))
    published = quantize_twin(torch.tensor([GELU_MINIMUM]), *gelu_arguments(8, 1.0, published=True))
    assert published.tolist() == [-128]


@settings(max_examples=200)
@given(b=bits, exponent=exponents(), seed=seeds)
def test_the_published_form_adds_both_ranges(b: int, exponent: float, seed: int) -> None:
    q = 2 ** (b - 1)
    split = torch.tensor(2.0**-exponent)
    x = probabilities(seed, split)
    t, step = split.double(), split.double() / (q - 1)
    found = fake_quantize_summed_twin(x, split, q - 1)
    high = (x.clamp(split, torch.ones(())) * (q - 1)).double()
    low = x.clamp(torch.zeros(()), split).double() / step
    expected = high.round().clamp(0, q - 1) / (q - 1) + low.round().clamp(0, q - 1) * step
    # A quotient that lies on a tie but for rounding may go either way.
    tie = ((low - low.floor() - 0.5).abs() < 4 * U * q) | ((high - high.floor() - 0.5).abs() < 4 * U * q)
    error = (found.double() - expected).abs()
    assert found.dtype is torch.float32
    assert bool((error[~tie] <= 8 * U * (1 + t)).all())
    assert bool((error[tie] <= 1 / (q - 1) + step).all())


@pytest.mark.parametrize(("b", "exponent"), list(itertools.product([4, 8], [1, 4, 8])))
def test_the_published_form_shifts_what_lies_above_the_split(b: int, exponent: int) -> None:
    split, qmax = torch.tensor(2.0**-exponent), 2 ** (b - 1) - 1
    x = torch.linspace(float(split), 1, 1000)
    shift = (fake_quantize_summed_twin(x, split, qmax) - x).double().mean()
    assert abs(float(shift) - float(split)) < 0.5 / qmax
