"""Learned steps: values, gradients and initial scales of the published code, and the reference by autograd."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from fxquant.numerics.learned_step import (
    WIDTHS,
    clamp_through,
    fake_quantize_learned,
    initial_activation_scale,
    initial_weight_scale,
    initial_weight_scales,
    learned_range,
    round_through,
    scale_gradient,
)

RECORDED = load_file(Path(__file__).parents[1] / "data" / "vvtq_quant.safetensors")
WEIGHTS = sorted({m[0] for k in RECORDED if (m := re.match(r"weight/\w+/b\d/|conv/b\d/", k))})
ACTIVATIONS = sorted({m[0] for k in RECORDED if (m := re.match(r"act/\w+/b\d/(un)?signed(_offset)?/", k))})


def bits_of(name: str) -> int:
    found = re.search(r"/b(\d)/", name)
    assert found
    return int(found[1])


def close(own: Tensor, published: Tensor, tolerance: float = 1e-5) -> bool:
    # A sum over all values may cancel: what is left of it is rounding.
    return bool((own - published).norm() <= tolerance * published.norm() + 5e-6 * own.numel() ** 0.5)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_have_the_published_values_and_gradients(name: str) -> None:
    bits = bits_of(name)
    weight = RECORDED[f"{name}w" if name.startswith("conv") else f"{name.rsplit('/', 2)[0]}/w"].clone().requires_grad_()
    if f"{name}alpha_init" in RECORDED:
        assert close(initial_weight_scales(weight), RECORDED[f"{name}alpha_init"])
    alphas = RECORDED[f"{name}alpha" if f"{name}alpha" in RECORDED else f"{name}alpha_init"]
    scale, width = alphas[bits - 2].clone().requires_grad_(), torch.tensor(float(bits), requires_grad=True)
    qmin, qmax = learned_range(width, signed=True)
    factor = 1 / (weight.detach().abs().sum() * qmax.detach()).sqrt()
    if f"{name}grad_scale" in RECORDED:
        assert close(factor, RECORDED[f"{name}grad_scale"])
    quantized = fake_quantize_learned(weight, scale_gradient(scale, factor), None, qmin, qmax)
    x = RECORDED[f"{name}x"].clone().requires_grad_()
    if name.startswith("conv"):
        out = F.conv2d(x, quantized, RECORDED.get(f"{name}bias"), stride=4)
    else:
        out = F.linear(x, quantized, RECORDED[f"{name}bias"])
        assert torch.equal(quantized, RECORDED[f"{name}w_quant"])
    assert close(out, RECORDED[f"{name}out"])
    torch.autograd.backward((out * RECORDED[f"{name}grad_out"]).sum())
    for own, key in ((weight.grad, "grad_w"), (x.grad, "grad_x"), (width.grad, "grad_bits")):
        if f"{name}{key}" in RECORDED:
            assert own is not None
            assert close(own, RECORDED[f"{name}{key}"].reshape(own.shape)), key
    assert scale.grad is not None
    assert close(scale.grad, RECORDED[f"{name}grad_alpha"][bits - 2], 1e-4)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_have_the_published_values_and_gradients(name: str) -> None:
    bits, offset = bits_of(name), "_offset" in name
    x = RECORDED["/".join(name.split("/")[:2]) + "/x"].clone().requires_grad_()
    assert close(initial_activation_scale(x.detach().abs().mean(), bits), RECORDED[f"{name}alpha_init"][bits - 2])
    scale = RECORDED[f"{name}alpha"][bits - 2].clone().requires_grad_()
    width = torch.tensor(float(bits), requires_grad=True)
    qmin, qmax = learned_range(width, "unsigned" not in name)
    factor = 1 / (x.numel() ** 0.5 * float(qmax.detach()))
    assert close(torch.tensor(factor), RECORDED[f"{name}grad_scale"])
    beta = RECORDED[f"{name}beta"][bits - 2].clone().requires_grad_() if offset else torch.zeros(())
    out = fake_quantize_learned(x - beta, scale_gradient(scale, factor), None, qmin, qmax) + beta
    assert torch.equal(out, RECORDED[f"{name}out"])
    torch.autograd.backward((out * RECORDED[f"{name}grad_out"]).sum())
    assert x.grad is not None
    assert scale.grad is not None
    assert width.grad is not None
    assert close(x.grad, RECORDED[f"{name}grad_x"])
    assert close(scale.grad, RECORDED[f"{name}grad_alpha"][bits - 2], 1e-4)
    assert close(width.grad, RECORDED[f"{name}grad_bits"].reshape(()))
    if offset:
        assert beta.grad is not None
        assert close(beta.grad, RECORDED[f"{name}grad_beta"][bits - 2], 1e-4)


def by_autograd(x: Tensor, scale: Tensor, zero: Tensor | None, qmin: Tensor, qmax: Tensor) -> Tensor:
    """Return the same by elementary operators, whose minimum and maximum share a gradient on a tie."""
    steps = x / scale if zero is None else x / scale + zero
    clipped = torch.minimum(torch.maximum(steps, qmin), qmax)
    codes = clipped + (clipped.round() - clipped).detach()
    return (codes if zero is None else codes - zero) * scale


@given(st.integers(0, 10_000), st.integers(2, 8), st.sampled_from([(), (3, 1), (1, 4)]), st.booleans(), st.booleans())
def test_gradients_are_those_of_elementary_operators(
    seed: int, bits: int, shape: tuple[int, ...], signed: bool, affine: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Eighths and powers of two: many values lie on bounds and halfway between codes, and all sums are exact.
    x = torch.randint(-40, 40, (3, 4), generator=generator) / 8.0
    scale = 2.0 ** torch.randint(-3, 2, shape, generator=generator).double()
    zero = torch.randint(-3, 3, shape, generator=generator).double() if affine else None
    qmin, qmax = (b.float() for b in learned_range(torch.tensor(float(bits)), signed))
    gradient = torch.randint(-4, 4, (3, 4), generator=generator).float()
    found = []
    functions: tuple[Callable[..., Tensor], ...] = (fake_quantize_learned, by_autograd)
    for function in functions:
        inputs = [t if t is None else t.clone().float().requires_grad_() for t in (x, scale, zero, qmin, qmax)]
        out = function(*inputs)
        wanted = [t for t in inputs if t is not None]
        found.append((out, *torch.autograd.grad(out, wanted, gradient, allow_unused=True)))
    for own, reference in zip(*found, strict=True):
        assert torch.allclose(own, reference, rtol=1e-6, atol=1e-6)


def slow_scale(weight: Tensor, bits: int) -> Tensor:
    qmin, qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scale = weight.abs().max() / qmax
    for _ in range(10_000):
        q = (weight / scale).round().clamp(qmin, qmax)
        new = (q.double() * weight.double()).sum() / q.double().square().sum()
        settled = (new.float() - scale).abs() < 1e-5 * scale
        scale = new.float()
        if settled:
            break
    return scale


@pytest.mark.parametrize("bits", list(WIDTHS))
@pytest.mark.parametrize("kind", ["normal", "grid", "heavy", "one"])
def test_initial_scales_are_those_of_passes_over_the_weight(bits: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(40, 50, generator=generator)
    weight = {"normal": weight, "grid": (weight * 4).round() / 4, "heavy": weight**3, "one": weight[:1, :1]}[kind]
    assert torch.allclose(initial_weight_scale(weight, bits), slow_scale(weight, bits), rtol=1e-6)


def test_a_weight_of_zeros_has_scale_zero() -> None:
    assert initial_weight_scales(torch.zeros(3, 4)).tolist() == [0.0] * 7


def test_helpers_keep_values_and_pass_gradients() -> None:
    x = torch.tensor([-1.25, 0.3, 2.5, 5.4], requires_grad=True)
    for function, value in (
        (round_through, [-1.0, 0.0, 2.0, 5.0]),
        (lambda t: clamp_through(t, 0.0, 3.0), [0.0, 0.3, 2.5, 3.0]),
        (lambda t: scale_gradient(t, 1.0), x.tolist()),
    ):
        out = function(x)  # type: ignore[no-untyped-call]
        assert torch.equal(out, torch.tensor(value))
        assert torch.equal(torch.autograd.grad(out.sum(), x)[0], torch.ones(4))
    assert torch.equal(torch.autograd.grad(scale_gradient(x, 0.25).sum(), x)[0], torch.full((4,), 0.25))
