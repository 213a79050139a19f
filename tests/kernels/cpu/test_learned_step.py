"""The C++ rounding to learned steps gives the values and gradients of torch's operators; sums are at least as exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.kernels import cpu, use_backend
from fxquant.numerics.learned_step import fake_quantize_learned
from tests.support.cpu_operands import seeds
from tests.support.needs_cpu_kernels import needs_kernels

pytestmark = needs_kernels
Operands = tuple[Tensor, Tensor, Tensor | None, Tensor | float, Tensor | float]


def run(operands: Operands, gradient: Tensor, backend: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return the result and the gradients of all tensors."""
    leaves = [t.detach().to(dtype).requires_grad_() if isinstance(t, Tensor) else t for t in operands]
    with use_backend(backend):
        y = fake_quantize_learned(*leaves)  # type: ignore[arg-type]
        y.backward(gradient.to(y.dtype))
    return [y.detach(), *(t.grad for t in leaves if isinstance(t, Tensor) and t.grad is not None)]


def in_float64(operands: Operands, gradient: Tensor) -> list[Tensor]:
    """Return the sums of the gradients, added in float64: elementwise they are those of torch's operators."""
    x, scale, zero_point, qmin, qmax = operands
    full = [t.expand(x.shape).clone() if isinstance(t, Tensor) else t for t in (scale, zero_point, qmin, qmax)]
    _, _, *each = run((x, *full), gradient, "aten")  # type: ignore[arg-type]
    axes = [axis for axis in range(x.dim()) if scale.dim() == 0 or scale.shape[axis] == 1]
    return [one.double().sum(axes).reshape(scale.shape) if axes else one.double() for one in each]


def check(operands: Operands, gradient: Tensor) -> None:
    """Compare with torch's operators: values to the last bit, sums with those in float64."""
    y, to_x, *sums = run(operands, gradient, "auto")
    wanted, wanted_to_x, *theirs = run(operands, gradient, "aten")
    assert torch.equal(y, wanted)
    assert torch.equal(to_x, wanted_to_x)
    exact = in_float64(operands, gradient)
    assert len(sums) == len(theirs) == len(exact)
    size = gradient.abs().double().sum() * 300  # of the terms, whose own rounding is all that differs
    for own, their, best in zip(sums, theirs, exact, strict=True):
        assert own.shape == their.shape
        error = (own - best).abs()
        assert bool((error <= (their - best).abs() + best.abs() * 2.0**-23 + size * 2.0**-24).all()), (own, their, best)


def make(generator: torch.Generator, shape: tuple[int, ...], axis: int | None, kind: str, bounds: bool) -> Operands:
    """Return operands; kind: "symmetric", "unsigned" or "affine". Many values lie on bounds and halfway between codes."""
    groups = [1] * len(shape)
    if axis is not None:
        groups[axis] = shape[axis]
    place = tuple(groups) if axis is not None else ()
    scale = 2.0 ** torch.randint(-3, 2, place, generator=generator) if kind != "affine" else None
    if scale is None:
        scale = torch.rand(place, generator=generator) + 0.1
    qmin, qmax = (0.0, 15.0) if kind == "unsigned" else (-8.0, 7.0)
    halves = torch.randint(-20, 35, shape, generator=generator) / 2 * scale
    x = torch.where(
        torch.rand(shape, generator=generator) < 0.5, halves, torch.randn(shape, generator=generator) * 6 * scale
    )
    zero_point = torch.randint(-5, 6, place, generator=generator).float() if kind == "affine" else None
    if not bounds:
        return x, scale, zero_point, qmin, qmax
    return x, scale, zero_point, torch.full(place, qmin), torch.full(place, qmax)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    width=st.sampled_from([1, 3, 16, 17, 64, 100]),
    axis=st.sampled_from([None, 0, 1]),
    kind=st.sampled_from(["symmetric", "unsigned", "affine"]),
    bounds=st.booleans(),
    layout=st.integers(0, 5),
    seed=seeds,
)
def test_values_and_gradients(
    shape: list[int], width: int, axis: int | None, kind: str, bounds: bool, layout: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = [*shape, width]
    operands = make(generator, tuple(shape), axis, kind, bounds)
    x, gradient = operands[0], torch.randn(shape, generator=generator)
    if layout % 3 == 1:
        x = x.mT.contiguous().mT
    elif layout % 3 == 2:
        x = torch.stack((x, x, x))[1:2].movedim(0, -2).contiguous().movedim(-2, 0)[0]
    gradient = gradient.movedim(0, 1).contiguous().movedim(1, 0) if layout >= 3 else gradient
    check((x, *operands[1:]), gradient)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 16383, 16384, 16385, 50_001])
@pytest.mark.parametrize("kind", ["symmetric", "affine"])
def test_lengths(size: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(size)
    check(make(generator, (size,), None, kind, False), torch.randn(size, generator=generator))


def test_a_number() -> None:
    check((torch.tensor(0.7), torch.tensor(0.2), None, -8.0, 7.0), torch.tensor(2.0))


@pytest.mark.parametrize("shape", [(3, 40_000), (768, 20), (3000, 40)])
def test_rows_of_a_weight(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    check(make(generator, shape, 0, "symmetric", False), torch.randn(shape, generator=generator))


def test_views_of_joint_projections() -> None:
    """Queries, keys and values lie between each other, the keys transposed; the result is laid out as torch does."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(2, 19, 3, 4, 24, generator=generator).permute(2, 0, 3, 1, 4)
    for axis in (None, 1):
        scale = torch.rand((1, 4, 1, 1) if axis else (), generator=generator) + 0.1
        for x in (qkv[0], qkv[1].transpose(-2, -1)):
            assert cpu.steps_along(x, scale, None, -8.0, 7.0) == (axis or -1)
            check((x, scale, None, -8.0, 7.0), torch.randn(x.shape, generator=generator))
            found = cpu.fake_quantize(x, scale, None, -8.0, 7.0, axis or -1)
            with use_backend("aten"):
                assert found.stride() == fake_quantize_learned(x, scale, None, -8.0, 7.0).stride()


@pytest.mark.parametrize("change", [lambda x: x[:, ::2], lambda x: x[:, :1].expand(-1, 30), lambda x: x.flip(1)[:, 3:]])
def test_any_strides(change: Callable[[Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, gradient = (change(torch.randn(7, 33, generator=generator)) for _ in range(2))
    check((x, torch.tensor(0.3), None, -8.0, 7.0), gradient)
    check((x, torch.rand(7, 1) + 0.1, torch.ones(7, 1), 0.0, 15.0), gradient)
    check((x.contiguous(), torch.tensor(0.3), None, -8.0, 7.0), torch.ones(()).expand(x.shape))


def test_values_that_are_no_numbers() -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 1e38, -1e38, 1e-45, -0.0, 0.35])
    for gradient in (torch.ones(8), torch.tensor([1, 1, 1, 1, 1, 1, 1, math.inf]), torch.full((8,), math.nan)):
        for zero_point in (None, torch.tensor(3.0)):
            for keep in (torch.ones(8, dtype=torch.bool), x.isfinite(), ~x.isnan()):
                operands = x[keep], torch.tensor(0.1), zero_point, -8.0, 7.0
                found, wanted = (run(operands, gradient[keep], backend) for backend in ("auto", "aten"))
                for own, theirs in zip(found, wanted, strict=True):
                    assert torch.allclose(own, theirs, rtol=1e-6, atol=0, equal_nan=True)
                assert torch.equal(found[0].nan_to_num(0.25), wanted[0].nan_to_num(0.25))


@pytest.mark.parametrize("scale", [1e-4, 0.1, 3.7e-3, 1 / 3, 1e4])
def test_all_magnitudes(scale: float) -> None:
    """Quotients are those of a division, not of a product with the reciprocal."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-(2**31), 2**31 - 1, (100_000,), generator=generator).int().view(torch.float32)
    x = x[x.isfinite()]
    gradient = torch.randn(x.shape, generator=generator)
    near = (torch.randint(-20, 20, x.shape, generator=generator) + 0.5) * scale
    near = near.view(torch.int32).add(torch.randint(-3, 4, x.shape, generator=generator)).int().view(torch.float32)
    for values in (x, near):
        for low, high in ((-8.0, 7.0), (-128.0, 127.0), (0.0, 255.0)):
            operands = values, torch.tensor(scale), None, low, high
            found, wanted = (run(operands, gradient, backend) for backend in ("auto", "aten"))
            assert torch.equal(found[0], wanted[0])
            assert torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("shape", [(40, 5000), (3, 7, 11, 300)])
def test_threads_give_the_same(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(2, *shape, generator=generator)
    before, results = torch.get_num_threads(), []
    scale = torch.rand(len(shape) * [1], generator=generator).expand(1, shape[1], *[1] * (len(shape) - 2)) + 0.1
    scale = scale if len(shape) > 2 else scale[:, :1]
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run((x, scale, None, -8.0, 7.0), gradient, "auto"))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for result in results[1:] for one, other in zip(results[0], result, strict=True))


def test_what_the_kernels_leave_to_torch() -> None:
    x, one = torch.randn(4, 6), torch.tensor(0.1)
    along: Callable[..., int | None] = cpu.steps_along
    assert along(x, one, None, -8.0, 7.0) == -1
    assert along(x, torch.rand(4, 1), torch.rand(4, 1), -8.0, 7.0) == 0
    assert along(x, torch.rand(1, 1), None, -8.0, 7.0) == -1
    assert along(x, torch.rand(1, 6), None, -8.0, 7.0) is None
    assert along(x, torch.rand(4, 6), None, -8.0, 7.0) is None
    assert along(x, torch.rand(4, 1), one, -8.0, 7.0) is None
    assert along(x, one, None, one, 7.0) is None
    assert along(x, one.double(), None, -8.0, 7.0) is None
    assert along(x.double(), one, None, -8.0, 7.0) is None
    check((x, torch.rand(1, 6) + 0.1, None, -8.0, 7.0), torch.randn(4, 6))


def test_gradients_of_gradients_are_torchs() -> None:
    results = []
    for backend in ("auto", "aten"):
        x, scale = torch.linspace(-1, 1, 20).requires_grad_(), torch.tensor(0.07, requires_grad=True)
        with use_backend(backend):
            y = fake_quantize_learned(x, scale, None, -8.0, 7.0)
            first = torch.autograd.grad(y.square().sum(), (x, scale), create_graph=True)
            results.append(torch.autograd.grad(first[0].square().sum() + first[1].square(), (x, scale)))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_only_what_is_asked_for() -> None:
    x, scale = torch.randn(30).requires_grad_(), torch.tensor(0.1)
    fake_quantize_learned(x, scale, None, -8.0, 7.0).sum().backward()
    assert x.grad is not None
    assert scale.grad is None


CALLS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "cpu_learned_step": lambda: (torch.randn(3, 5), torch.rand(1) + 0.1, None, None, -8.0, 7.0, -1),
    "cpu_learned_step of groups": lambda: (
        *(torch.randn(3, 5), torch.rand(3) + 0.1, torch.ones(3), torch.tensor([[-8.0] * 3, [7.0] * 3]), 0.0, 0.0, 0),
    ),
    "cpu_learned_step_backward": lambda: (
        *(torch.randn(3, 5), torch.randn(3, 5), torch.rand(3) + 0.1, torch.ones(3), None, -8.0, 7.0, 0),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_are_well_behaved_operators(name: str) -> None:
    operator = getattr(torch.ops.fxquant, name.partition(" ")[0]).default
    torch.library.opcheck(operator, CALLS[name]())
