"""Quantisation arithmetic, for any range, bits and values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fxquant.numerics.arithmetic import (
    EPS,
    affine_qparams,
    along,
    code_range,
    dequantize,
    dequantize_log2,
    integer_exponential,
    log_int_softmax,
    quantize,
    quantize_log2,
    sqnr,
    storage_offset,
    symmetric_scale,
)

bits = st.integers(2, 8)
# Beyond these, scales meet float32's own limits or EPS, which has tests of its own.
sizes = st.floats(2**-10, 2**20, width=32)
signs = st.booleans()


def values_in(minimum: float, maximum: float, count: int = 257) -> Tensor:
    return torch.linspace(minimum, maximum, count, dtype=torch.float64).clamp(minimum, maximum).float()


def half_step(scale: Tensor, largest: float) -> float:
    # Half a step, and what float32 rounds away: a division, a multiplication and an addition of at most 2^9 steps.
    return float(scale) / 2 + 4 * EPS * (largest + 512 * float(scale))


@given(b=bits)
def test_code_ranges(b: int) -> None:
    assert code_range(b, signed=False) == (0, 2**b - 1)
    assert code_range(b, signed=True) == (-(2 ** (b - 1)), 2 ** (b - 1) - 1)


@given(b=bits, signed=signs, low=sizes, high=sizes)
def test_affine_round_trip_errs_by_half_a_step_at_most(b: int, signed: bool, low: float, high: float) -> None:
    qmin, qmax = code_range(b, signed)
    scale, zero_point = affine_qparams(torch.tensor(-low), torch.tensor(high), qmin, qmax)
    x = values_in(-low, high)
    codes = quantize(x, scale, zero_point, qmin, qmax)
    error = (dequantize(codes, scale, zero_point).double() - x.double()).abs()
    # The zero point is rounded too, so that one end of the range may lie half a step outside the codes: clamping there
    # costs up to a step in all.
    inside = (codes > qmin) & (codes < qmax)
    bound = half_step(scale, max(low, high))
    assert float(error[inside].max() if inside.any() else 0.0) <= bound
    assert float(error.max()) <= 2 * bound


@given(b=bits, low=sizes, high=sizes)
def test_symmetric_round_trip_errs_by_half_a_step_at_most(b: int, low: float, high: float) -> None:
    qmin, qmax = code_range(b, signed=True)
    scale = symmetric_scale(torch.tensor(-low), torch.tensor(high), qmin, qmax)
    x = values_in(-low, high)
    error = (dequantize(quantize(x, scale, None, qmin, qmax), scale, None).double() - x.double()).abs()
    assert float(error.max()) <= half_step(scale, max(low, high))


@given(b=bits, high=sizes)
def test_unsigned_symmetric_codes_span_zero_to_the_maximum(b: int, high: float) -> None:
    qmin, qmax = code_range(b, signed=False)
    scale = symmetric_scale(torch.tensor(0.0), torch.tensor(high), qmin, qmax)
    assert quantize(torch.tensor([0.0, high]), scale, None, qmin, qmax).tolist() == [0, qmax]


@given(b=bits, signed=signs, low=sizes, high=sizes)
def test_zero_maps_to_zero(b: int, signed: bool, low: float, high: float) -> None:
    qmin, qmax = code_range(b, signed)
    scale, zero_point = affine_qparams(torch.tensor(-low), torch.tensor(high), qmin, qmax)
    code = quantize(torch.zeros(1), scale, zero_point, qmin, qmax)
    assert int(code) == int(zero_point)
    assert float(dequantize(code, scale, zero_point)) == 0.0
    assert float(quantize(torch.zeros(1), scale, None, min(qmin, 0), qmax)) == 0.0


@given(b=bits, signed=signs, low=sizes, high=sizes)
def test_codes_survive_a_round_trip(b: int, signed: bool, low: float, high: float) -> None:
    qmin, qmax = code_range(b, signed)
    scale, zero_point = affine_qparams(torch.tensor(-low), torch.tensor(high), qmin, qmax)
    codes = torch.arange(qmin, qmax + 1).float()
    again = quantize(dequantize(codes, scale, zero_point), scale, zero_point, qmin, qmax)
    assert torch.equal(again, codes)


@given(b=bits, signed=signs, x=st.floats(allow_nan=False, width=32), scale=sizes)
def test_codes_stay_in_their_range(b: int, signed: bool, x: float, scale: float) -> None:
    qmin, qmax = code_range(b, signed)
    assert qmin <= float(quantize(torch.tensor([x]), torch.tensor(scale), None, qmin, qmax)) <= qmax


@given(b=bits, signed=signs, value=st.floats(-(2**20), 2**20, width=32))
def test_a_range_of_one_value_is_kept(b: int, signed: bool, value: float) -> None:
    qmin, qmax = code_range(b, signed)
    x = torch.tensor([value])
    scale, zero_point = affine_qparams(x, x, qmin, qmax)
    found = dequantize(quantize(x, scale, zero_point, qmin, qmax), scale, zero_point)
    assert abs(float(found) - value) <= float(scale) / 2 + 4 * EPS * abs(value)
    assert not value or math.isclose(float(found), value, rel_tol=0.01, abs_tol=EPS * (qmax - qmin))


@pytest.mark.parametrize(("low", "high", "code"), [(2.0, 3.0, 0), (-3.0, -2.0, 255), (0.37, 0.370001, 0)])
def test_a_range_away_from_zero_is_widened_to_hold_it(low: float, high: float, code: int) -> None:
    ends = torch.tensor([low, high])
    scale, zero_point = affine_qparams(ends[0], ends[1], 0, 255)
    assert float(scale) == pytest.approx(max(abs(low), abs(high)) / 255)
    assert int(zero_point) == code
    assert (dequantize(quantize(ends, scale, zero_point, 0, 255), scale, zero_point) - ends).abs().max() <= scale / 2


def test_a_range_within_half_a_step_of_zero_is_left_as_it_is() -> None:
    scale, zero_point = affine_qparams(torch.tensor(0.4 / 255), torch.tensor(1.0), 0, 255)
    assert float(scale) == pytest.approx((1 - 0.4 / 255) / 255)
    assert int(zero_point) == 0


@pytest.mark.parametrize("b", [2, 8])
def test_a_range_of_zeros_keeps_the_smallest_scale(b: int) -> None:
    zero = torch.zeros(3)
    qmin, qmax = code_range(b, signed=True)
    assert torch.equal(symmetric_scale(zero, zero, qmin, qmax), torch.full((3,), EPS))
    scale, zero_point = affine_qparams(zero, zero, qmin, qmax)
    assert torch.equal(dequantize(quantize(zero, scale, zero_point, qmin, qmax), scale, zero_point), zero)


def test_ties_go_to_the_even_code_after_the_zero_point_is_added() -> None:
    x, one = torch.tensor([0.5, 1.5, 2.5, -0.5]), torch.ones(())
    assert quantize(x, one, None, -8, 7).tolist() == [0, 2, 2, 0]
    odd = torch.tensor(1, dtype=torch.int32)
    assert quantize(x, one, odd, -8, 7).tolist() == [2, 2, 4, 0], "1.5, 2.5, 3.5 and 0.5 are rounded, not 0.5 and so on"


def test_divides_rather_than_multiplies_by_the_reciprocal() -> None:
    scale = torch.rand(1000) + 0.01
    x = scale * 2.5
    assert torch.equal(quantize(x, scale, None, -128, 127), torch.round(x / scale))
    assert not torch.equal(torch.round(x / scale), torch.round(x * (1 / scale))), "these values do tell the two apart"


@given(b=bits, signed=signs)
def test_the_storage_offset_makes_every_code_an_int8(b: int, signed: bool) -> None:
    qmin, qmax = code_range(b, signed)
    offset = storage_offset(qmax)
    assert offset == (128 if (b, signed) == (8, False) else 0)
    codes = torch.arange(qmin, qmax + 1)
    assert torch.equal((codes - offset).to(torch.int8).int() + offset, codes.int())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_arithmetic_is_float32_whatever_the_input(dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 1, 50).to(dtype)
    scale = torch.tensor(0.013)
    codes = quantize(x, scale, None, -128, 127)
    assert codes.dtype is torch.float32
    assert torch.equal(codes, quantize(x.float(), scale, None, -128, 127))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_scales_run_along_their_axis(axis: int) -> None:
    x = torch.randn(2, 3, 4)
    scale = torch.rand(x.shape[axis]) + 0.5
    zero_point = torch.arange(x.shape[axis], dtype=torch.int32)
    codes = quantize(x, scale, zero_point, 0, 15, axis)
    values = dequantize(codes, scale, zero_point, axis)
    for i in range(x.shape[axis]):
        expected = quantize(x.select(axis, i), scale[i], zero_point[i], 0, 15)
        assert torch.equal(codes.select(axis, i), expected)
        assert torch.equal(values.select(axis, i), dequantize(expected, scale[i], zero_point[i]))


def test_a_single_scale_has_no_axis() -> None:
    scale = torch.ones(())
    assert along(scale, 3, 1) is scale
    assert along(torch.ones(4), 3, None).shape == (4,)
    assert along(torch.ones(4), 3, -1).shape == (1, 1, 4)


def test_sqnr_counts_decibels() -> None:
    reference = torch.ones(100)
    assert sqnr(reference, reference * 1.1) == pytest.approx(20, abs=1e-5)
    assert sqnr(reference, reference) == math.inf


@given(b=st.integers(2, 7), exponents=st.lists(st.floats(-140, 0), min_size=1, max_size=40))
def test_powers_of_two_are_within_a_factor_of_root_two(b: int, exponents: list[float]) -> None:
    qmax, x = 2**b - 1, torch.tensor(exponents).exp2().clamp(max=1)
    codes = quantize_log2(x, qmax)
    assert bool(((codes >= -1) & (codes <= qmax)).all())
    assert torch.equal(codes, codes.round())
    found, kept = dequantize_log2(codes), codes >= 0
    ratio = (found[kept].double() / x[kept].double()).log2().abs()
    assert bool((ratio <= 0.5 + 1e-4).all())
    assert bool((found[~kept] == 0).all())
    assert bool((x[~kept].double() <= 2.0 ** -(qmax + 0.5) * (1 + 1e-4)).all()), "only what lies beyond is 0"


@given(b=st.integers(2, 7))
def test_zero_and_one_are_powers_of_two_exactly(b: int) -> None:
    codes = quantize_log2(torch.tensor([0.0, 1.0, 1.0005]), 2**b - 1)
    assert codes.tolist() == [-1, 0, 0]
    assert dequantize_log2(codes).tolist() == [0, 1, 1]


@given(b=st.integers(2, 7))
def test_every_exponent_survives_a_round_trip(b: int) -> None:
    codes = torch.arange(-1, min(2**b, 126)).float()  # 2^-127 is subnormal, which a CPU may flush
    assert torch.equal(quantize_log2(dequantize_log2(codes), 2**b - 1), codes)


def test_halves_go_to_the_even_exponent() -> None:
    x = torch.tensor([-0.5, -1.5, -2.5], dtype=torch.float64).exp2()
    exponents = -torch.log2(x.float())
    assert torch.equal(quantize_log2(x, 15), exponents.round())


@given(scale=st.floats(2**-9, 0.5), steps=st.integers(-300, 0))
def test_the_integer_exponential_is_proportional_to_the_exponential(scale: float, steps: int) -> None:
    s = torch.tensor(scale)
    found = integer_exponential(torch.tensor([float(steps), 0.0]), s)
    assert torch.equal(found, found.floor())
    ratio, exact = float(found[0] / found[1]), math.exp(steps * float(s))
    # floors of ln 2 / s and of b / (a s) are off by a step at most: coarse scales give coarse exponentials
    assert ratio == pytest.approx(exact, abs=0.01 + 0.75 * scale)
    assert 0 <= ratio <= 1


@given(b=st.integers(2, 7), count=st.integers(1, 64), value=st.integers(-128, 127), scale=st.floats(2**-9, 0.5))
def test_equal_scores_share_evenly(b: int, count: int, value: int, scale: float) -> None:
    s, qmax = torch.tensor(scale), 2**b - 1
    codes = log_int_softmax(torch.full((1, 1, 2, count), float(value)) * s, s, qmax)
    exponent = math.floor(math.log2(count))
    exponent += count - 2**exponent >= 2 ** (exponent - 1)
    assert set(codes.flatten().tolist()) == {exponent if exponent <= qmax else -1}


def test_masked_scores_get_nothing() -> None:
    scale = torch.tensor(0.05)
    scores = torch.randint(-60, 60, (1, 1, 4, 6), generator=torch.Generator().manual_seed(0)) * scale
    masked = scores.clone()
    masked[..., 3:] -= 100
    for b in (2, 4):
        codes = log_int_softmax(masked, scale, 2**b - 1)
        assert bool((codes[..., 3:] == -1).all())
        assert torch.equal(codes[..., :3], log_int_softmax(scores[..., :3], scale, 2**b - 1))
        assert bool((codes[..., :3] >= 0).any(-1).all())
    # the exponential ends at 30 shifts, and 7 bits have an exponent for that
    assert bool((log_int_softmax(masked, scale, 127)[..., 3:] >= 30).all())


@given(spread=st.floats(0.5, 4), seed=st.integers(0, 2**16))
def test_the_integer_softmax_is_near_the_real_one(spread: float, seed: int) -> None:
    scale = torch.tensor(spread / 128)
    scores = torch.randint(-128, 128, (1, 2, 4, 8), generator=torch.Generator().manual_seed(seed)) * scale
    exact = scores.double().softmax(-1)
    codes = log_int_softmax(scores, scale, 15)
    assert bool((codes >= 0).all())
    # half a power of two for the exponent, another part for rounding the inverse to an integer, and the polynomial
    assert float((dequantize_log2(codes).double() / exact).log2().abs().max()) <= 0.9
