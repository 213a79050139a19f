"""Float8 codes: all of them, what rounds to which, and their neighbours."""

from __future__ import annotations

import math

import torch

from fxquant.numerics.float8 import DTYPE, beside_float8, dequantize_float8, quantize_float8, round_float8, token_scale

ALL = torch.arange(256, dtype=torch.uint8).view(DTYPE).float()
CODES = ALL[~ALL.isnan()].unique()  # sorted, with one zero


def test_every_code_stands_for_itself() -> None:
    assert (len(CODES), float(CODES[0]), float(CODES[-1])) == (253, -448.0, 448.0)
    assert torch.equal(round_float8(CODES), CODES)
    scale = torch.tensor(0.125)
    assert torch.equal(dequantize_float8(quantize_float8(CODES * scale, scale), scale), CODES * scale)


def test_values_go_to_the_nearest_code_and_ties_to_the_even_mantissa() -> None:
    below, above = CODES[:-1], CODES[1:]
    middle = (below + above) / 2
    assert torch.equal(round_float8(middle.nextafter(below)), below)
    assert torch.equal(round_float8(middle.nextafter(above)), above)
    even = ((CODES.to(DTYPE).view(torch.uint8) & 1) == 0)[:-1]
    assert torch.equal(round_float8(middle), torch.where(even, below, above))


def test_what_lies_beyond_the_codes_is_the_largest_and_no_number_stays_none() -> None:
    beyond = torch.tensor([449.0, -1e30, math.inf, -math.inf])
    assert round_float8(beyond).tolist() == [448.0, -448.0, 448.0, -448.0]
    assert bool(quantize_float8(torch.tensor([math.nan]), torch.tensor(1.0)).isnan().all())


def test_the_codes_beside_a_code() -> None:
    up, down = torch.ones(253, dtype=torch.bool), torch.zeros(253, dtype=torch.bool)
    assert torch.equal(beside_float8(CODES, up), torch.cat((CODES[1:], CODES[-1:])))
    assert torch.equal(beside_float8(CODES, down), torch.cat((CODES[:1], CODES[:-1])))


def test_the_largest_value_of_a_token_becomes_the_largest_code() -> None:
    x = torch.tensor([[1.0, -8.0], [0.5, 0.25], [0.0, 0.0]])
    scale = token_scale(x)
    assert scale.shape == (3, 1)
    assert quantize_float8(x, scale).float().abs().amax(-1).tolist() == [448.0, 448.0, 0.0]


def test_the_error_is_a_part_of_the_value() -> None:
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    scale = x.abs().max() / 448
    found = dequantize_float8(quantize_float8(x, scale), scale)
    normal = x.abs() > 2.0**-6 * scale
    assert bool(((found - x).abs()[normal] <= 2.0**-4 * x.abs()[normal]).all())
