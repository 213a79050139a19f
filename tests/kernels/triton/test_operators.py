"""Operators are well behaved and refuse what does not fit, compilers take or see through them, CUDA graphs record them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.operator_calls import triton_calls
from tests.support.triton_interpreter import Kernels
from tests.support.triton_operands import random_codes, random_quantizer


def calls() -> dict[str, tuple[Any, ...]]:
    """Return one call of each operator."""
    generator = torch.Generator().manual_seed(0)
    codes, weight = random_codes(generator, 2, 5, 24), random_codes(generator, 16, 24)
    scale, bias, x = torch.rand(16) / 3000, torch.randn(16), torch.randn(3, 7, 16)
    uniform, twin = random_quantizer(generator, "unsigned", 16), random_quantizer(generator, "gelu")
    no_quantizer = (None, None, None, None, None, 0, 0)
    a, b = random_codes(generator, 2, 3, 5, 8), random_codes(generator, 2, 3, 8, 6)
    norm = (uniform.scale, uniform.zero_point, uniform.noise, uniform.qmin, uniform.qmax)
    return {
        "triton_linear": (codes, weight, scale, None, bias, None, None, torch.bfloat16, *no_quantizer),
        "triton_linear twin": (
            codes,
            weight,
            scale,
            scale,
            bias,
            torch.randn(2, 5, 16),
            None,
            torch.float32,
            *no_quantizer,
        ),
        "triton_linear codes": (codes, weight, scale, None, bias, None, "none", torch.float32, *uniform),
        "triton_layer_norm_quantize": (x, torch.randn(16), torch.randn(16), 1e-6, *norm),
        "triton_quantize": (x, *twin),
        "triton_matmul": (a, b, torch.tensor(0.001), None, torch.tensor(3, dtype=torch.int32), None, torch.float32),
    }


CALLS = calls()
each_call = pytest.mark.parametrize("name", CALLS)


@each_call
def test_is_well_behaved(kernels: Kernels, name: str) -> None:
    assert set(kernels.check(name.partition(" ")[0], *CALLS[name]).values()) == {"SUCCESS"}


@each_call
def test_gives_the_same_compiled(kernels: Kernels, name: str) -> None:
    operator = name.partition(" ")[0]
    assert torch.equal(kernels.compiled(operator, *CALLS[name]), kernels(operator, *CALLS[name]))


def test_the_calls_below_are_of_every_operator(kernels: Kernels) -> None:
    called = {name.partition(" ")[0] for name in triton_calls()}
    assert {name for name in kernels.registered() if name.startswith("triton_")} == called


@pytest.mark.parametrize("name", triton_calls())
def test_refuses_what_does_not_fit(kernels: Kernels, name: str) -> None:
    assert kernels.faults(name, right=False) == []


@pytest.mark.long
@pytest.mark.parametrize("name", triton_calls())
def test_is_right_or_refuses(kernels: Kernels, name: str) -> None:
    assert kernels.faults(name, right=True) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_call
def test_cuda_graphs_record_it(name: str) -> None:
    from torch.utils._pytree import tree_map_only

    from fxquant.kernels.triton import operators

    operator = getattr(operators, name.partition(" ")[0])
    args = tree_map_only(torch.Tensor, torch.Tensor.cuda, CALLS[name])
    expected = operator(*args)  # chooses the tile, which cannot be done while a graph is recorded
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = operator(*args)
    found.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found, expected)
