"""The C++ linear layers and quantisers equal torch's operators bit for bit; behind GELU codes differ on boundaries alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.kernels import cpu, use_backend
from fxquant.kernels.activation_table import gelu_table
from fxquant.ops import int8_linear, int8_linear_add, int8_linear_twin, int8_linear_twin_add, quantize, quantize_twin
from tests.support.cpu_operands import (
    assert_codes,
    dtypes,
    make_codes,
    make_quantizer,
    make_weight,
    quantizers,
    seeds,
)
from tests.support.needs_cpu_kernels import needs_kernels

pytestmark = needs_kernels
ONE = torch.ones(())
examples = settings(max_examples=60)
rows = st.integers(0, 40)
outputs = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 127, 128, 130, 200]))
depths = st.integers(1, 40).map(lambda n: 4 * n)


def operands(seed: int, m: int, k: int, o: int) -> tuple[torch.Generator, Tensor, Tensor, Tensor, Tensor]:
    """Return a generator, codes ``(M, K)``, a weight, its scale and a bias."""
    generator = torch.Generator().manual_seed(seed)
    codes, weight = make_codes(generator, m, k), make_weight(generator, o, k)
    scale = torch.rand(o, generator=generator) / (k**0.5 * 1000) + 1e-6
    return generator, codes, weight, scale, torch.randn(o, generator=generator)


@examples
@given(m=rows, k=depths, o=outputs, dtype=dtypes, twin=st.booleans(), added=st.booleans(), seed=seeds)
def test_linear(m: int, k: int, o: int, dtype: torch.dtype, twin: bool, added: bool, seed: int) -> None:
    generator, codes, weight, scale, bias = operands(seed, m, k, o)
    low = torch.rand(o, generator=generator) / 10000
    residual = torch.randn(m, o, generator=generator).to(dtype) if added else None
    found = cpu.linear(codes, weight, scale, bias, dtype, low=low if twin else None, residual=residual)
    with use_backend("aten"):
        if twin and residual is not None:
            expected = int8_linear_twin_add(codes, weight, scale, low, bias, residual, dtype, True)
        elif twin:
            expected = int8_linear_twin(codes, weight, scale, low, bias, dtype, True)
        elif residual is None:
            expected = int8_linear(codes, weight, scale, bias, None, None, dtype, True)
        else:
            expected = int8_linear_add(codes, weight, scale, bias, residual, dtype, True)
    assert found.dtype is dtype
    assert torch.equal(found, expected)


@examples
@given(
    m=rows,
    k=depths,
    o=outputs,
    dtype=dtypes,
    kind=quantizers(),
    approximate=st.sampled_from(["none", "tanh"]),
    seed=seeds,
)
def test_linear_with_gelu(
    m: int, k: int, o: int, dtype: torch.dtype, kind: tuple[int, str, bool], approximate: str, seed: int
) -> None:
    generator, codes, weight, scale, bias = operands(seed, m, k, o)
    quantizer = make_quantizer(generator, o, *kind)
    found = cpu.linear(codes, weight, scale, bias, dtype, gelu=approximate, quantizer=quantizer)
    with use_backend("aten"):
        before = int8_linear(codes, weight, scale, bias, None, None, dtype, True)
        y = F.gelu(before, approximate=approximate)
        expected = quantized(y, quantizer)
    exact = F.gelu(before.double(), approximate=approximate)
    # 6.5e-7 is the table's, 2^-23 that of float32 and 2^-8 that of rounding to bfloat16 in between.
    error = 6.5e-7 + exact.abs() * (2.0**-23 if dtype is torch.float32 else 2.0**-8)
    assert_codes(found, exact, error, quantizer)
    assert_codes(expected, exact, error, quantizer)


@examples
@given(
    shape=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    dtype=dtypes,
    kind=quantizers(),
    seed=seeds,
    far=st.booleans(),
)
def test_quantize(shape: list[int], dtype: torch.dtype, kind: tuple[int, str, bool], seed: int, far: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=generator) * (1000 if far else 2)).to(dtype)
    quantizer = make_quantizer(generator, shape[-1], *kind)
    check_quantize(x, quantizer)
    check_quantize(x.mT if x.dim() > 1 and quantizer.noise is None else x, quantizer)


def check_quantize(x: Tensor, quantizer: cpu.Quantizer) -> None:
    with use_backend("aten"):
        expected = quantized(x, quantizer)
    assert torch.equal(cpu.quantize(x, quantizer), expected)


def quantized(x: Tensor, quantizer: cpu.Quantizer) -> Tensor:
    q = quantizer
    if q.low is None or q.split is None:
        return quantize(x, q.scale, q.zero_point, q.qmin, q.qmax, None, q.noise)
    return quantize_twin(x, q.scale, q.low, q.split, q.qmin, q.qmax, q.noise)


def test_twin_codes_of_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(100, 197, generator=generator) ** 8
    low, split = torch.tensor(-1 / 127 / 64), torch.tensor(1 / 64)
    check_quantize(x, cpu.Quantizer(torch.tensor(1 / 127), None, low, split, None, -127, 127))


def test_division_by_the_scale_is_correctly_rounded() -> None:
    """Next to ties a quotient that is off by its last bit gives another code."""
    generator = torch.Generator().manual_seed(0)
    ties = torch.arange(-128, 127) + 0.5
    for exponent in torch.rand(1500, generator=generator) * 24 - 14:
        scale = torch.tensor(2.0) ** exponent
        x = ties * scale
        near = [x, x.nextafter(x * 2), x.nextafter(x * 0), (ties.double() * scale.double()).float()]
        near += [near[1].nextafter(x * 2), near[2].nextafter(x * 0)]
        check_quantize(torch.stack(near), cpu.Quantizer(scale, None, None, None, None, -128, 127))


@pytest.mark.parametrize("zero_point", [0, 3, 128, 255])
def test_millions_of_values(zero_point: int) -> None:
    generator = torch.Generator().manual_seed(zero_point)
    x = torch.randn(1000, 1000, generator=generator) * 20
    zero = torch.tensor(zero_point, dtype=torch.int32)
    for scale in (0.1, 1 / 3, 0.0625):
        check_quantize(x, cpu.Quantizer(torch.tensor(scale), zero, None, None, None, 0, 255))


@pytest.mark.parametrize("k", [4, 60, 64, 68, 4096])
def test_extreme_codes_do_not_overflow(k: int) -> None:
    for a, b in ((-128, -128), (-128, 127), (127, -128), (127, 127)):
        codes, weight = torch.full((3, k), a, dtype=torch.int8), torch.full((24, k), b, dtype=torch.int8)
        one, zero = torch.ones(20), torch.zeros(20)
        found = cpu.linear(codes, weight, one, zero, torch.float32)
        assert torch.equal(found, torch.full((3, 20), float(a * b * k)))
        twin = cpu.linear(codes, weight, one, zero, torch.float32, low=one * 2)
        assert torch.equal(twin, torch.full((3, 20), float(a * b * k * (2 if a < 0 else 1))))


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8), (2, 1, 3, 8), (0, 3, 8)])
def test_any_number_of_leading_axes(shape: tuple[int, ...]) -> None:
    _, codes, weight, scale, bias = operands(0, 12, 8, 7)
    x = codes.flatten()[: torch.Size(shape).numel()].reshape(shape)
    found = cpu.linear(x, weight, scale, bias, torch.float32)
    assert found.shape == (*shape[:-1], 7)
    with use_backend("aten"):
        assert torch.equal(found, int8_linear(x, weight, scale, bias, None, None, torch.float32, True))


def test_operands_need_not_be_contiguous() -> None:
    generator, codes, weight, scale, bias = operands(0, 8, 20, 9)
    residual = torch.randn(9, 20, generator=generator).mT
    x = make_codes(generator, 8, 20).mT
    assert torch.equal(
        cpu.linear(x, weight, scale, bias, torch.float32, residual=residual),
        cpu.linear(x.contiguous(), weight, scale, bias, torch.float32, residual=residual.contiguous()),
    )
    every = codes[:, :16][::2]
    assert torch.equal(
        cpu.linear(every, weight, scale, bias, torch.bfloat16),
        cpu.linear(every.clone(), weight, scale, bias, torch.bfloat16),
    )


def test_memory_behind_the_weight_is_not_read() -> None:
    """Rows and columns beyond `outputs` and `depth` hold anything."""
    _, codes, weight, scale, bias = operands(0, 5, 12, 9)
    garbage = torch.full((40, 28), 77, dtype=torch.int8)
    garbage[:9, :12] = weight[:9, :12]
    assert torch.equal(
        cpu.linear(codes, garbage, scale, bias, torch.float32), cpu.linear(codes, weight, scale, bias, torch.float32)
    )


@pytest.mark.parametrize("m", [1, 7, 50, 300])
def test_threads_give_the_same(m: int) -> None:
    generator, codes, weight, scale, bias = operands(0, m, 64, 200)
    quantizer = make_quantizer(generator, 200, 8, "unsigned", True)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            y = cpu.linear(codes, weight, scale, bias, torch.float32)
            results.append([y, cpu.quantize(y, quantizer)])
            results[-1].append(cpu.linear(codes, weight, scale, bias, torch.bfloat16, gelu="none", quantizer=quantizer))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def _pack() -> tuple[Any, ...]:
    return (operands(0, 1, 8, 9)[2], 9, 8)


def _gemm(**options: Any) -> tuple[Any, ...]:
    generator, codes, weight, scale, bias = operands(0, 5, 8, 9)
    packed, compensation = cpu.pack(weight, 9, 8)
    if options.get("codes"):
        quantizer = make_quantizer(generator, 9, 8, "affine", True)
        return (codes, packed, compensation, scale, None, bias, gelu_table("none"), None, *quantizer, False)
    residual = torch.randn(5, 9, generator=generator).bfloat16()
    return (codes, packed, compensation, scale, scale * 2, bias, None, residual, *(None,) * 5, 0, 0, True)


CALLS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "cpu_pack": _pack,
    "cpu_gemm": _gemm,
    "cpu_gemm to codes": lambda: _gemm(codes=True),
    "cpu_quantize": lambda: (torch.randn(3, 5), torch.tensor(0.1), None, None, None, -8, 7, torch.rand(5)),
    "cpu_layer_norm_quantize": lambda: (
        *(torch.randn(2, 3, 20).bfloat16(), torch.rand(20), torch.rand(20), 1e-6),
        *(torch.tensor(0.1), torch.tensor(3, dtype=torch.int32), 0, 255, None),
    ),
    "cpu_attention": lambda: (
        *(*torch.randn(3, 2, 2, 5, 16).unbind(0), 0.25, torch.rand(2, 5, 5), torch.rand(2, 5, 5)),
        *(torch.tensor(0.1), None, -128, 127, None),
    ),
    "cpu_attention to float": lambda: (
        *torch.randn(3, 2, 2, 5, 16).bfloat16().unbind(0),
        *(0.25, None, None, None, None, 0, 0, None),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_are_well_behaved_operators(name: str) -> None:
    operator = getattr(torch.ops.fxquant, name.partition(" ")[0]).default
    torch.library.opcheck(operator, CALLS[name]())


@pytest.mark.parametrize(
    "steps", [{"gelu": "none"}, {"quantizer": cpu.Quantizer(ONE, None, None, None, None, -128, 127)}]
)
def test_a_residual_is_added_to_float_results_alone(steps: dict[str, Any]) -> None:
    codes, weight = torch.zeros(2, 4, dtype=torch.int8), torch.zeros(3, 4, dtype=torch.int8)
    with pytest.raises(RuntimeError, match="a residual is added to float results without GELU only"):
        cpu.linear(codes, weight, torch.ones(3), torch.zeros(3), torch.float32, residual=torch.zeros(2, 3), **steps)


def test_operands_of_another_dtype_are_refused() -> None:
    codes, weight = torch.zeros(2, 4, dtype=torch.int8), torch.zeros(3, 4, dtype=torch.int8)
    with pytest.raises(RuntimeError, match=r"the bias in float32 of shape \(3\), found float64 .* choose float_dtype"):
        cpu.linear(codes, weight, torch.ones(3), torch.zeros(3).double(), torch.float32)
    with pytest.raises(
        RuntimeError, match=r"a residual in a float dtype of shape \(2, 3\), found float32 of shape \(1, 3\)"
    ):
        cpu.linear(codes, weight, torch.ones(3), torch.zeros(3), torch.float32, residual=torch.zeros(1, 3))
    with pytest.raises(RuntimeError, match="the zero point in int32 of one element"):
        cpu.quantize(torch.zeros(2, 4), cpu.Quantizer(ONE, torch.zeros(()), None, None, None, 0, 255))
    q, short = torch.zeros(1, 2, 3, 16), torch.zeros(1, 2, 2, 16)
    with pytest.raises(RuntimeError, match="do not fit together"):
        cpu.attention_quantize(q, q, short, 1.0, None, None, cpu.Quantizer(ONE, None, None, None, None, 0, 255))
    with pytest.raises(RuntimeError, match=r"the bias of scores in float32 of shape \(\*, 3, 3\)"):
        cpu.attention_quantize(
            q, q, q, 1.0, torch.zeros(2, 3, 2), None, cpu.Quantizer(ONE, None, None, None, None, 0, 255)
        )
