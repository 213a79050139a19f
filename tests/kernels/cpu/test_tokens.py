"""The C++ kernels give the scales, zero points and codes of torch's operators, and products on them of the same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.kernels import cpu, use_backend
from fxquant.numerics.arithmetic import code_range
from fxquant.ops import (
    int8_linear,
    int8_linear_add,
    int8_linear_gelu_quantize,
    layer_norm_quantize_tokens,
    quantize_tokens,
)
from tests.support.cpu_operands import dtypes, make_codes, make_quantizer, make_weight, seeds
from tests.support.needs_cpu_kernels import needs_kernels

pytestmark = needs_kernels

kinds = st.tuples(st.integers(2, 8), st.sampled_from([(True, True), (False, True), (False, False), (True, False)]))


def _rows(generator: torch.Generator, *shape: int) -> Tensor:
    size = torch.rand(*shape[:-1], 1, generator=generator).mul(30).sub(15).exp()
    return torch.randn(shape, generator=generator) * size * (torch.rand(shape, generator=generator) > 0.2)


@settings(max_examples=60)
@given(
    shape=st.lists(st.integers(1, 12), max_size=3),
    width=st.one_of(st.integers(1, 70), st.sampled_from([384, 1000])),
    dtype=dtypes,
    kind=kinds,
    sign=st.sampled_from([-1, 0, 1]),
    seed=seeds,
)
def test_quantize_tokens(
    shape: list[int], width: int, dtype: torch.dtype, kind: tuple[int, tuple[bool, bool]], sign: int, seed: int
) -> None:
    bits, (symmetric, signed) = kind
    generator = torch.Generator().manual_seed(seed)
    x = _rows(generator, *shape, width).to(dtype)
    x = x.abs() * sign if sign else x
    arguments = (x, symmetric, *code_range(bits, signed))
    with use_backend("aten"):
        wanted = quantize_tokens(*arguments)
    found = cpu.quantize_tokens(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@settings(max_examples=30)
@given(
    rows=st.integers(1, 40),
    width=st.one_of(st.integers(8, 70), st.sampled_from([384, 1000])),
    dtype=dtypes,
    kind=kinds,
    affine=st.booleans(),
    seed=seeds,
)
def test_layer_norm_quantize_tokens(
    rows: int, width: int, dtype: torch.dtype, kind: tuple[int, tuple[bool, bool]], affine: bool, seed: int
) -> None:
    bits, (symmetric, signed) = kind
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(2, rows, width, generator=generator) * 2).to(dtype)
    weight = torch.randn(width, generator=generator) + 1 if affine else None
    bias = torch.randn(width, generator=generator) if affine else None
    qmin, qmax = code_range(bits, signed)
    # With the smallest code, the largest value of a row lies on the boundary of two codes.
    arguments = (x, weight, bias, 1e-6, symmetric, qmin + (symmetric and signed), qmax)
    codes, scale, zero_point = cpu.layer_norm_quantize_tokens(*arguments)
    with use_backend("aten"):
        wanted = layer_norm_quantize_tokens(*arguments)
    torch.testing.assert_close(scale, wanted[1], rtol=1e-4, atol=0)
    assert int((zero_point - wanted[2]).abs().max()) <= 1
    # Where the zero point falls on the other side of a boundary, so do all codes of the row.
    same = (zero_point == wanted[2])[..., None].expand_as(codes)
    assert bool(((codes.int() - wanted[0]).abs() <= 1).all())
    assert int((codes != wanted[0])[same].sum()) <= 1 + 0.005 * codes.numel()


@settings(max_examples=60)
@given(
    m=st.integers(1, 40),
    k=st.integers(1, 40).map(lambda n: 4 * n),
    o=st.integers(1, 80),
    dtype=dtypes,
    behind=st.sampled_from(["nothing", "residual", "GELU"]),
    seed=seeds,
)
def test_products(m: int, k: int, o: int, dtype: torch.dtype, behind: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes, weight = make_codes(generator, 2, m, k), make_weight(generator, o, k)
    scale, bias = torch.rand(o, generator=generator) / 1000, torch.randn(o, generator=generator)
    rows = (
        torch.rand(2, m, generator=generator),
        torch.randint(-128, 128, (2, m), generator=generator, dtype=torch.int32),
    )
    one = make_quantizer(generator, o, 8, "unsigned", False)
    product, options = (codes, weight, scale, bias), (dtype, False)
    calls: dict[str, Any] = {
        "nothing": lambda: int8_linear(*product, None, None, *options, *rows),
        "residual": lambda: int8_linear_add(*product, bias.expand(2, m, o), *options, *rows),
        "GELU": lambda: int8_linear_gelu_quantize(
            *(*product, "none", *options), *(one.scale, one.zero_point, one.qmin, one.qmax, None), *rows
        ),
    }
    found = calls[behind]()
    with use_backend("aten"):
        wanted = calls[behind]()
    if behind == "GELU":  # a table, which may give a neighbour
        assert int((found.int() - wanted).abs().max()) <= 1
    else:
        assert torch.equal(found, wanted)


@settings(max_examples=60)
@given(
    m=st.integers(0, 60),
    k=st.integers(1, 40).map(lambda n: 4 * n),
    o=st.one_of(st.integers(1, 80), st.sampled_from([64, 128, 130])),
    dtype=dtypes,
    read=st.sampled_from(["one scale", "twin", "tokens"]),
    gelu=st.booleans(),
    kind=kinds,
    seed=seeds,
)
def test_products_that_give_codes_per_token(
    m: int, k: int, o: int, dtype: torch.dtype, read: str, gelu: bool, kind: tuple[int, tuple[bool, bool]], seed: int
) -> None:
    bits, (symmetric, signed) = kind
    generator = torch.Generator().manual_seed(seed)
    codes, weight = make_codes(generator, 2, m, k), make_weight(generator, o, k)
    scale, bias = torch.rand(o, generator=generator) / 1000, torch.randn(o, generator=generator)
    rows = (torch.rand(2, m, generator=generator), torch.full((2, m), -7, dtype=torch.int32))
    options: dict[str, Any] = {
        "low": scale / 3 if read == "twin" else None,
        "gelu": "none" if gelu else None,
        **({"rows": rows} if read == "tokens" else {}),
    }
    product = (codes, *cpu.pack(weight, o, k), scale, bias, dtype)
    to = (symmetric, *code_range(bits, signed))
    found = cpu.packed_linear_tokens(*product, *to, **options)
    wanted = cpu.quantize_tokens(cpu.packed_linear(*product, **options), *to) if m else None
    assert [t.shape for t in found] == [(2, m, o), (2, m), (2, m)]
    assert wanted is None or all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_threads_and_layouts_give_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    x = _rows(generator, 6, 50, 64)
    wanted = cpu.quantize_tokens(x.transpose(0, 1).contiguous(), False, 0, 255)
    found = cpu.quantize_tokens(x.transpose(0, 1), False, 0, 255)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_values_that_are_no_numbers_end() -> None:
    x = torch.tensor([[1.0, float("nan"), 2.0], [float("inf"), 1.0, -1.0], [0.0, 1.0, 2.0]])
    codes, scale, zero_point = cpu.quantize_tokens(x, False, 0, 255)
    assert bool((zero_point >= -128).all())
    assert bool((zero_point <= 127).all())
    assert codes[2].tolist() == [-128, -1, 127]
    assert float(scale[1]) == float("inf")


@pytest.mark.parametrize("rows", [(torch.ones(2), None), (torch.ones(3), torch.zeros(3, dtype=torch.int32))])
def test_rows_that_do_not_fit_are_refused(rows: Any) -> None:
    codes, weight = torch.zeros(2, 8, dtype=torch.int8), torch.zeros(8, 8, dtype=torch.int8)
    with pytest.raises(RuntimeError, match="of each row"):
        cpu.linear(codes, weight, torch.ones(8), F.pad(torch.ones(8), (0, 0)), torch.float32, rows=rows)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_so_in_its_row_alone(value: float, symmetric: bool) -> None:
    low, high = code_range(8, symmetric)
    for at in (0, 15, 16, 39):
        x = torch.ones(3, 40)
        x[1, at] = value
        for row_scale in (
            cpu.quantize_tokens(x, symmetric, low, high)[1],
            cpu.layer_norm_quantize_tokens(x, None, None, 1e-6, symmetric, low, high)[1],
        ):
            assert row_scale.isfinite().flatten().tolist() == [True, False, True]
