"""`batched_int_mm` equals exact integer arithmetic, whichever way it takes, and compilers leave it whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fxquant.ops.batched_int_mm import EXACT_TERMS, batched_int_mm, float32_product, loop_over_matrices
from tests.ops.test_int8_linear import codes

WAYS: list[Callable[[Tensor, Tensor], Tensor]] = [batched_int_mm, float32_product, loop_over_matrices]
each_way = pytest.mark.parametrize("way", WAYS, ids=["chosen", "float32", "loop"])
sizes = st.integers(1, 40)


def exact(a: Tensor, b: Tensor) -> Tensor:
    """Return the product in int64, without `torch.bmm` of integers, which is slow."""
    return (a.double() @ b.double()).long()


@each_way
@settings(max_examples=40)
@given(batch=st.integers(0, 4), n=sizes, k=sizes, m=sizes, seed=st.integers(0, 2**31))
def test_products_are_exact(way: Callable[..., Tensor], batch: int, n: int, k: int, m: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = codes(generator, batch + 1, n, k)[:batch], codes(generator, batch + 1, k, m)[:batch]
    found = way(a, b)
    assert (found.dtype, found.shape) == (torch.int32, (batch, n, m))
    assert torch.equal(found.long(), a.long() @ b.long())


@each_way
@pytest.mark.parametrize("k", [EXACT_TERMS, EXACT_TERMS + 1, 3 * EXACT_TERMS + 5])
def test_long_sums_are_exact(way: Callable[..., Tensor], k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = codes(generator, 2, 3, k), codes(generator, 2, k, 5)
    assert torch.equal(way(a, b).long(), exact(a, b))
    a, b = torch.full_like(a, -128), torch.full_like(b, -128)
    b[0] = 127
    assert torch.equal(way(a, b).long(), exact(a, b)), "the largest sums"
    a[:, :, 0], b[:, 0] = 1, 1
    assert torch.equal(way(a, b).long(), exact(a, b)), "odd sums, next to the largest"


@each_way
def test_large_matrices_are_exact(way: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = codes(generator, 3, 197, 96), codes(generator, 3, 96, 197)
    assert torch.equal(way(a, b).long(), exact(a, b))


@each_way
def test_codes_need_not_be_contiguous(way: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = codes(generator, 3, 10, 14), codes(generator, 3, 14, 6)
    views = [
        (a, codes(generator, 3, 6, 14).mT),
        (codes(generator, 3, 14, 10).mT, b),
        (a[:, :, ::2], b[:, ::2, ::3]),
        (a[:, ::2, 1::2], b[:, 1::2]),
        (a[:1].expand(3, -1, -1), b[:, :, :1].expand(-1, -1, 6)),
        (codes(generator, 10, 3, 14).transpose(0, 1), b),
    ]
    for x, y in views:
        assert torch.equal(way(x, y).long(), exact(x, y))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_round_the_sums(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = codes(generator, 2, 5, 300), codes(generator, 2, 300, 7)
    with torch.autocast("cpu", dtype):
        assert torch.equal(batched_int_mm(a, b).long(), exact(a, b))
        assert torch.equal(float32_product(a, b).long(), exact(a, b))


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_faster_float32_products_stay_exact(precision: str) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = codes(generator, 2, 64, EXACT_TERMS), codes(generator, 2, EXACT_TERMS, 64)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert torch.equal(float32_product(a, b).long(), exact(a, b))
    finally:
        torch.set_float32_matmul_precision(before)


def test_is_a_well_behaved_operator() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.library.opcheck(batched_int_mm, (codes(generator, 2, 3, 4), codes(generator, 2, 4, 5)))


class Module(nn.Module):
    """The product alone."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return batched_int_mm(a, b)


def test_exports_as_one_call_for_any_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = codes(generator, 4, 3, 5), codes(generator, 4, 5, 2)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(Module(), (a, b), dynamic_shapes={"a": {0: batch}, "b": {0: batch}})
    calls = [n.target for n in exported.graph.nodes if n.op == "call_function"]
    assert calls == [torch.ops.fxquant.batched_int_mm.default]
    assert torch.equal(exported.module()(a[:3], b[:3]).long(), exact(a[:3], b[:3]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("k", [1, 64, 197, EXACT_TERMS + 5])
@pytest.mark.parametrize("tf32", [False, True])
def test_on_cuda(k: int, tf32: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = codes(generator, 6, 197, k), codes(generator, 6, k, 64)
    a[0], b[0] = -128, -128
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        assert torch.equal(batched_int_mm(a.cuda(), b.cuda()).cpu().long(), exact(a, b))
    finally:
        torch.set_float32_matmul_precision(before)
