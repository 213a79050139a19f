"""The C++ layer norm gives the codes of an exact one, except where a value sits on a boundary."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.kernels import cpu, use_backend
from fxquant.ops import layer_norm_quantize
from tests.support.cpu_operands import arguments, assert_codes, dtypes, make_quantizer, quantizers, seeds
from tests.support.needs_cpu_kernels import needs_kernels

pytestmark = needs_kernels


def check(x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float, quantizer: cpu.Quantizer) -> None:
    """Compare the kernel and torch's operators with float64."""
    width = x.shape[-1:]
    gamma, beta = (None if t is None else t.double() for t in (weight, bias))
    exact = F.layer_norm(x.double(), width, gamma, beta, epsilon)
    # Mean and variance are sums of 16 lanes, whose terms are as large as the values.
    wide = x.double()
    inverse = (wide.var(-1, correction=0, keepdim=True) + epsilon).rsqrt()
    size = (wide.abs() + wide.abs().mean(-1, keepdim=True)) * inverse * (1 if weight is None else weight.abs())
    error = (x.shape[-1] / 16 + 16) * 2.0**-24 * (size + (0 if bias is None else bias.abs()))
    found = cpu.layer_norm_quantize(x, weight, bias, epsilon, quantizer)
    assert_codes(found, exact, error, quantizer)
    with use_backend("aten"):
        expected = layer_norm_quantize(x, weight, bias, epsilon, *arguments(quantizer))
    assert (found != expected).sum() <= 1 + 0.002 * found.numel()


@settings(max_examples=60)
@given(
    shape=st.lists(st.integers(1, 12), max_size=3),
    width=st.one_of(st.integers(1, 70), st.sampled_from([384, 1000])),
    dtype=dtypes,
    kind=quantizers(twin=False),
    affine=st.sampled_from(["both", "weight", "neither"]),
    epsilon=st.sampled_from([1e-6, 1e-5]),
    offset=st.sampled_from([0.0, 5.0]),
    seed=seeds,
)
def test_codes(
    shape: list[int],
    width: int,
    dtype: torch.dtype,
    kind: tuple[int, str, bool],
    affine: str,
    epsilon: float,
    offset: float,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(*shape, width, generator=generator) * 2 + offset).to(dtype)
    weight = None if affine == "neither" else torch.randn(width, generator=generator) + 1
    bias = torch.randn(width, generator=generator) if affine == "both" else None
    check(x, weight, bias, epsilon, make_quantizer(generator, width, *kind))


def test_constant_rows_and_no_rows() -> None:
    quantizer = make_quantizer(torch.Generator().manual_seed(0), 20, 8, "affine", True)
    x = torch.tensor([0.0, 1.0, -4.0])[:, None].expand(3, 20)
    bias = torch.linspace(-1, 1, 20)
    check(x.contiguous(), torch.ones(20), bias, 1e-6, quantizer)
    check(x, torch.ones(20), bias, 1e-6, quantizer)
    found = torch.ops.fxquant.cpu_layer_norm_quantize(
        x[:0], None, None, 1e-6, quantizer.scale, None, -128, 127, quantizer.noise
    )
    assert (found.shape, found.dtype) == ((0, 20), torch.int8)


def test_strided_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    quantizer = make_quantizer(generator, 24, 8, "unsigned", False)
    x = torch.randn(4, 24, 10, generator=generator)
    check(x.mT, None, None, 1e-6, quantizer)
    check(x.mT[:, ::3], None, None, 1e-6, quantizer)


@pytest.mark.parametrize("rows", [1, 15, 100])
def test_threads_give_the_same(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, quantizer = torch.randn(rows, 50, generator=generator), make_quantizer(generator, 50, 8, "unsigned", True)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(cpu.layer_norm_quantize(x, None, None, 1e-6, quantizer))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)
