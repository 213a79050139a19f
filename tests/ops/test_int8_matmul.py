"""`int8_matmul` and `int8_matmul_twin` equal exact integer arithmetic, whatever the codes, zero points and axes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from fxquant.ops import dequantize_twin, int8_matmul, int8_matmul_twin, quantize_twin
from fxquant.ops.int8_matmul import shifted_product
from tests.ops.test_int8_linear import codes, seeds

sizes = st.integers(1, 24)
# The leading axes of both operands, and of what broadcasting makes of them.
BATCHES = [
    ((), ()),
    ((3,), (3,)),
    ((2, 3), (2, 3)),
    ((2, 3), (3,)),
    ((3,), (2, 3)),
    ((2, 1), (1, 3)),
    ((2, 3), ()),
    ((), (2, 3)),
    ((2, 2, 3), (1, 3)),
]
batches = st.sampled_from(BATCHES)


def shifts(generator: torch.Generator, kind: str) -> Tensor | None:
    """Return zero points as stored: none, one, or one for each of 3 heads."""
    if kind == "none":
        return None
    return torch.randint(-255, 256, () if kind == "tensor" else (3, 1, 1), generator=generator, dtype=torch.int32)


def has_heads(batch: tuple[tuple[int, ...], ...], *kinds: str) -> bool:
    """Say whether the product has 3 heads, where any of `kinds` is of one value per head."""
    return "head" not in kinds or torch.broadcast_shapes(*batch)[-1:] == (3,)


kinds = st.sampled_from(["none", "tensor", "head"])


@settings(max_examples=150)
@given(batch=batches, n=sizes, k=sizes, m=sizes, kind_a=kinds, kind_b=kinds, seed=seeds)
def test_is_the_product_of_shifted_codes(
    batch: tuple[tuple[int, ...], ...], n: int, k: int, m: int, kind_a: str, kind_b: str, seed: int
) -> None:
    if not has_heads(batch, kind_a, kind_b):
        kind_a, kind_b = "tensor", "tensor"
    generator = torch.Generator().manual_seed(seed)
    a, b = codes(generator, *batch[0], n, k), codes(generator, *batch[1], k, m)
    zero_a, zero_b = shifts(generator, kind_a), shifts(generator, kind_b)
    # At most 24 * 383 * 383, so that float32 holds every accumulator.
    found = int8_matmul(a, b, torch.ones(()), zero_a, zero_b, torch.float64)
    left, right = (x.long() - (0 if z is None else z.long()) for x, z in ((a, zero_a), (b, zero_b)))
    expected = left @ right
    assert found.dtype is torch.float64
    assert found.shape == (*torch.broadcast_shapes(*batch), n, m)
    assert torch.equal(found, expected.double())


@settings(max_examples=150)
@given(batch=batches, n=sizes, k=sizes, m=sizes, kind=kinds, seed=seeds)
def test_twin_ranges_are_two_products(
    batch: tuple[tuple[int, ...], ...], n: int, k: int, m: int, kind: str, seed: int
) -> None:
    kind = kind if has_heads(batch, kind) else "tensor"
    generator = torch.Generator().manual_seed(seed)
    a, b, zero_b = codes(generator, *batch[0], n, k), codes(generator, *batch[1], k, m), shifts(generator, kind)
    one, none = torch.ones(()), torch.zeros(())
    right = b.long() - (0 if zero_b is None else zero_b.long())
    for high, low, part in ((one, none, a.clamp(min=0)), (none, one, a.clamp(max=0)), (one, one, a)):
        found = int8_matmul_twin(a, b, high, low, zero_b, torch.float64)
        assert found.shape == (*torch.broadcast_shapes(*batch), n, m)
        assert torch.equal(found, (part.long() @ right).double())


def test_long_sums_do_not_overflow() -> None:
    k = 5000
    a, b = torch.full((1, 1, k), -128, dtype=torch.int8), torch.full((1, k, 1), -128, dtype=torch.int8)
    zero = torch.tensor(127, dtype=torch.int32)
    assert int(shifted_product(a, b, None, None)) == 128 * 128 * k
    assert int(shifted_product(a, b, zero, None)) == 128 * 255 * k
    assert int(shifted_product(a, b, zero, zero)) == 255 * 255 * k


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (3, 1, 1)])
def test_scales_are_applied_in_float32(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = codes(generator, 2, 3, 5, 8), codes(generator, 2, 3, 8, 4)
    high, low = torch.rand(shape) / 1000, -torch.rand(shape) / 9000
    found = int8_matmul(a, b, high, None, None, dtype)
    acc = a.float() @ b.float()
    assert found.dtype is dtype
    assert torch.equal(found, (acc * high).to(dtype))
    found = int8_matmul_twin(a, b, high, low, None, dtype)
    above, below = (part.float() @ b.float() for part in (a.clamp(min=0), a.clamp(max=0)))
    # A fused multiply-add rounds once, a multiplication and an addition twice.
    tolerance = 2**-23 * (above * high).abs() + 2**-23 * (below * low).abs()
    tolerance = tolerance + torch.finfo(dtype).eps * found.float().abs()
    assert found.dtype is dtype
    assert bool(((found.float() - (above * high + below * low)).abs() <= tolerance).all())


@pytest.mark.parametrize(
    ("high", "low", "split"), [(1 / 127, -0.25 / 127, 0.25), (0.02, 0.17 / 128, 0.0)], ids=["softmax", "gelu"]
)
def test_is_the_product_of_what_twin_codes_stand_for(high: float, low: float, split: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 9, 9).softmax(-1) if split else torch.nn.functional.gelu(torch.randn(2, 3, 9, 9))
    arguments: tuple[Any, ...] = (*map(torch.tensor, (high, low, split)), -127, 127)
    a, b = quantize_twin(x, *arguments), codes(torch.Generator().manual_seed(0), 2, 3, 9, 4)
    assert a.min() < 0 < a.max()
    found = int8_matmul_twin(a, b, arguments[0], arguments[1], None, torch.float32)
    expected = dequantize_twin(a, *arguments).double() @ b.double()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def _graph(twin: bool) -> tuple[fx.GraphModule, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    graph = fx.Graph()
    a, b = graph.placeholder("a"), graph.placeholder("b")
    constants = [graph.get_attr(name) for name in ("scale", "low", "zero")]
    target: Any = int8_matmul_twin if twin else int8_matmul
    scales = constants if twin else [constants[0], constants[2], constants[2]]
    graph.output(graph.call_function(target, (a, b, *scales, torch.float32)))
    root = torch.nn.Module()
    for name, value in (
        ("scale", torch.rand(3, 1, 1)),
        ("low", torch.rand(3, 1, 1)),
        ("zero", torch.tensor(-5, dtype=torch.int32)),
    ):
        root.register_buffer(name, value)
    return fx.GraphModule(root, graph), (codes(generator, 4, 3, 7, 6), codes(generator, 4, 3, 6, 5))


@pytest.mark.parametrize("twin", [False, True])
def test_survives_copying_compiling_and_exporting(twin: bool) -> None:
    gm, (a, b) = _graph(twin)
    expected = gm(a, b)
    assert torch.equal(copy.deepcopy(gm)(a, b), expected)
    torch.testing.assert_close(torch.compile(gm)(a, b), expected)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(gm, (a, b), dynamic_shapes=({0: batch}, {0: batch}))
    products = [n for n in exported.graph.nodes if n.target is torch.ops.fxquant.batched_int_mm.default]
    assert len(products) == 1
    assert torch.equal(exported.module()(a[:2], b[:2]), expected[:2])
