"""The C++ regulariser gives what torch's operators give in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.kernels import cpu, use_backend
from fxquant.training.regulariser import _Variation
from tests.support.cpu_operands import seeds
from tests.support.needs_cpu_kernels import needs_kernels

pytestmark = needs_kernels


def run(
    weight: Tensor, scale: Tensor, bounds: tuple[Any, Any], published: bool, backend: str, dtype: torch.dtype
) -> list[Tensor]:
    """Return the regulariser and its gradients of weight and scale."""
    weight, scale = (t.detach().to(dtype).requires_grad_() for t in (weight, scale))
    low, high = (b.to(dtype) if isinstance(b, Tensor) else b for b in bounds)
    with use_backend(backend):
        value: Tensor = _Variation.apply(weight, scale, low, high, published)  # type: ignore[no-untyped-call]
        (3 * value).backward()
    assert weight.grad is not None
    assert scale.grad is not None
    return [value.detach(), weight.grad, scale.grad]


def check(weight: Tensor, scale: Tensor, bits: int, published: bool = False, tensors: bool = False) -> None:
    """Compare with float64, in which the quotients that are whole numbers are the same for these scales."""
    low, high = -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    bounds: tuple[Any, Any] = (low, high)
    if tensors:
        bounds = torch.full_like(scale, low), torch.full_like(scale, high)
    found = run(weight, scale, bounds, published, "auto", torch.float32)
    exact = run(weight, scale, bounds, published, "aten", torch.float64)
    for own, best in zip(found, exact, strict=True):
        assert own.shape == best.shape
        assert torch.allclose(own.double(), best, rtol=1e-4, atol=1e-5 * float(best.abs().max()) + 1e-12)


def make(generator: torch.Generator, groups: int, size: int, bits: int) -> tuple[Tensor, Tensor]:
    """Return weights of which some lie on codes, halves and bounds, and scales that are powers of two."""
    scale = 2.0 ** torch.randint(-8, 0, (groups, 1), generator=generator)
    reach = 2 ** (bits - 1) + 1
    quarters = torch.randint(-4 * reach, 4 * reach + 1, (groups, size), generator=generator) / 4
    normal = torch.randn(groups, size, generator=generator) * reach / 2
    # Sixteenths keep the quotients of both formats on one side of each half.
    return torch.where(
        torch.rand(groups, size, generator=generator) < 0.3, quarters, (normal * 16).round() / 16
    ) * scale, scale


@settings(max_examples=60, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 3, 40]),
    size=st.one_of(st.integers(1, 70), st.sampled_from([1000, 16384, 40_001])),
    bits=st.integers(2, 8),
    tensors=st.booleans(),
    seed=seeds,
)
def test_value_and_gradients(groups: int, size: int, bits: int, tensors: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    check(*make(generator, groups, min(size, 200_000 // groups), bits), bits, tensors=tensors)


@pytest.mark.parametrize("shape", [(24, 10), (12, 3, 4, 4), (1,), (50,)])
def test_one_scale(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    check(weight, torch.tensor(0.25), 4)


def test_published_leaves_out_the_same_codes() -> None:
    """Of which codes a weight is not counted depends on float32 division: the reference is float32 too."""
    generator, differing = torch.Generator().manual_seed(0), 0
    for _ in range(20):
        weight, scale = torch.randn(2000, generator=generator), torch.rand((), generator=generator) * 0.1 + 0.01
        bounds = (-128.0, 127.0)
        found = run(weight, scale, bounds, True, "auto", torch.float32)
        wanted = run(weight, scale, bounds, True, "aten", torch.float32)
        for own, theirs in zip(found, wanted, strict=True):
            assert (own - theirs).norm() <= 1e-4 * theirs.norm()
        differing += not torch.allclose(
            found[0], run(weight, scale, bounds, False, "auto", torch.float32)[0], rtol=1e-3
        )
    assert differing > 0, "nothing was left out"


def test_weights_need_not_be_contiguous() -> None:
    weight = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    bounds = (-8.0, 7.0)
    one, two = (
        run(w, torch.tensor(0.2), bounds, False, "auto", torch.float32) for w in (weight.mT, weight.mT.contiguous())
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_weight_that_is_no_number_makes_the_value_none() -> None:
    weight = torch.tensor([0.1, float("nan"), 0.3])
    value, *_ = run(weight, torch.tensor(0.1), (-8.0, 7.0), False, "auto", torch.float32)
    assert bool(value.isnan())


def test_threads_give_the_same() -> None:
    weight = torch.randn(3, 100_000, generator=torch.Generator().manual_seed(0))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(weight, torch.full((3, 1), 0.2), (-8.0, 7.0), False, "auto", torch.float32))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for result in results[1:] for one, other in zip(results[0], result, strict=True))


CALLS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "one scale": lambda: (torch.randn(6, 5), torch.rand(1) + 0.1, None, -8.0, 7.0, False),
    "groups": lambda: (torch.randn(2, 5), torch.rand(2) + 0.1, torch.tensor([[-8.0] * 2, [7.0] * 2]), 0.0, 0.0, True),
}


@pytest.mark.parametrize("name", CALLS)
def test_is_a_well_behaved_operator(name: str) -> None:
    assert cpu.is_available()
    torch.library.opcheck(torch.ops.fxquant.cpu_variation.default, CALLS[name]())
