"""Patch-similarity entropy: value and gradient are those of its definition and of the authors' code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fxquant.synthesis import patch_entropy as module
from fxquant.synthesis.patch_entropy import patch_entropy
from tests.support.recorded_synthesis import entropy_by_definition, recorded, relative


def with_gradient(entropy: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    return entropy.detach(), torch.autograd.grad(entropy, context)[0]


def contexts(*shape: int, alike: float = 1.0) -> Tensor:
    """Return contexts whose tokens have something in common, so that similarities lie apart from zero."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(shape[0], 1, 1, shape[-1], generator=generator) * alike
    return (torch.randn(*shape, generator=generator) + common).requires_grad_()


@pytest.mark.parametrize(("name", "tolerance"), [("vit", 1e-4), ("swin", 1e-4), ("vit_same", 5e-3)])
def test_value_and_gradient_as_recorded(name: str, tolerance: float) -> None:
    data = {key.removeprefix(f"entropy/{name}/"): t for key, t in recorded().items()}
    context = data["att"].clone().requires_grad_()
    value, gradient = with_gradient(-patch_entropy(context, int(data["images"]), prefix=1), context)
    assert float(value) == pytest.approx(float(data["loss"]), rel=tolerance)
    assert relative(gradient, data["grad"]) < tolerance


@pytest.mark.parametrize(
    ("shape", "images", "prefix", "bandwidth", "grid_size"),
    [
        ((3, 2, 70, 16), 3, 1, 0.01, 10),  # more tokens than rows at once; each sample near one or two points
        ((8, 2, 9, 8), 2, 0, 0.01, 10),  # four windows per image
        ((2, 1, 20, 8), 2, 2, 0.05, 10),  # each sample near several points
        ((2, 3, 12, 8), 2, 0, 0.3, 7),  # near all of them
        ((2, 3, 12, 8), 1, 0, 0.01, 2),
    ],
)
def test_value_and_gradient_as_defined(
    shape: tuple[int, ...], images: int, prefix: int, bandwidth: float, grid_size: int
) -> None:
    context = contexts(*shape)
    exact = context.detach().double().requires_grad_()
    value, gradient = with_gradient(
        patch_entropy(context, images, prefix, bandwidth=bandwidth, grid_size=grid_size), context
    )
    wanted, slope = with_gradient(entropy_by_definition(exact, images, prefix, bandwidth, grid_size), exact)
    assert float(value) == pytest.approx(float(wanted), rel=1e-4)
    assert relative(gradient, slope) < 1e-4


def test_kernels_out_of_reach_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    context = contexts(2, 2, 90, 16)
    value, gradient = with_gradient(patch_entropy(context, 2), context)
    monkeypatch.setattr(module, "_REACH", 1e6)  # each sample counts at each point
    wanted, slope = with_gradient(patch_entropy(context, 2), context)
    assert float(value) == pytest.approx(float(wanted), rel=2e-5)
    assert relative(gradient, slope) < 1e-5


def test_gradient_is_that_of_the_whole_chain() -> None:
    context = contexts(2, 2, 5, 4)
    (gradient,) = torch.autograd.grad(3 * patch_entropy(context * 2, 2), context)
    (wanted,) = torch.autograd.grad(3 * entropy_by_definition(context * 2, 2, 0, 0.01, 10), context)
    assert relative(gradient, wanted) < 1e-4


def test_heads_windows_and_halves_are_read_as_such() -> None:
    context = contexts(4, 2, 6, 8).detach()
    one_head = patch_entropy(context.mean(1), 4)
    torch.testing.assert_close(one_head, patch_entropy(context, 4))
    between = context.unflatten(0, (2, 2)).transpose(1, 2)  # (B, H, windows, N, D)
    torch.testing.assert_close(patch_entropy(between, 2), patch_entropy(context, 2))
    half = context.bfloat16()
    torch.testing.assert_close(patch_entropy(half, 4), patch_entropy(half.float(), 4))


def test_tokens_that_are_all_alike_have_no_entropy_and_no_gradient() -> None:
    context = torch.ones(2, 1, 4, 4, requires_grad=True)
    value, gradient = with_gradient(patch_entropy(context, 2), context)
    assert abs(float(value)) < 1e-4
    assert float(gradient.abs().max()) < 1e-4
