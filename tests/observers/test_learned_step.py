"""Learned steps as observers: where they start, what they round to, what becomes of them in files and on the way to codes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from fxquant.config.operands import TensorSpec
from fxquant.errors import CalibrationError, ConfigError
from fxquant.numerics.arithmetic import dequantize, quantize
from fxquant.numerics.granularity import PerChannel, PerHead, PerTensor, RowGroups
from fxquant.observers import GradientScale, LearnedStep, LearnedStepQuantizer, LearnedWeightStep

X = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))


def build(weight: bool = False, symmetric: bool = True, signed: bool = True, **options: Any) -> LearnedStepQuantizer:
    granularity, bits = options.pop("granularity", PerTensor()), options.pop("bits", 4)
    step = (LearnedWeightStep if weight else LearnedStep)(**options)
    module = TensorSpec(bits, signed, symmetric, granularity, step).build("site")
    assert isinstance(module, LearnedStepQuantizer)
    return module


def rounded(module: LearnedStepQuantizer, x: Tensor) -> Tensor:
    """Return what `convert` makes of the quantiser."""
    params = module.per_row(module.calculate_qparams(), x)
    codes = quantize(x, params.scale, params.zero_point, module.spec.qmin, module.spec.qmax, params.axis)
    return dequantize(codes, params.scale, params.zero_point, params.axis)


@pytest.mark.parametrize("granularity", [PerTensor(), PerHead(), PerChannel(-1)])
@pytest.mark.parametrize(("signed", "symmetric"), [(True, True), (True, False), (False, False), (False, True)])
def test_an_activation_starts_from_its_first_batch_and_rounds_as_converted(
    granularity: Any, signed: bool, symmetric: bool
) -> None:
    module = build(granularity=granularity, signed=signed, symmetric=symmetric)
    first = module(X)
    rows = module.rows(X)
    assert torch.allclose(module.scale, 2 * rows.abs().mean(1) / 7**0.5)
    assert module.calibrated
    assert torch.equal(first, rounded(module, X))
    scale = module.scale.clone()
    module(10 * X)
    assert torch.equal(module.scale, scale)
    if module.offset is not None:
        with torch.no_grad():
            module.offset.copy_(torch.linspace(-1, 1, len(module.offset)))
    assert torch.equal(module(X), rounded(module, X))


@pytest.mark.parametrize(("granularity", "count"), [(PerTensor(), 1), (RowGroups(3), 3), (PerChannel(0), 6)])
def test_a_weight_starts_from_the_scale_that_fits_its_codes(granularity: Any, count: int) -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    module = build(weight=True, granularity=granularity)
    assert torch.equal(module(weight), rounded(module, weight))
    assert module.scale.shape == (count,)
    for scale, values, row in zip(module.scale, module(weight).view(count, -1), weight.view(count, -1), strict=True):
        codes = values / scale
        assert torch.allclose(codes @ row / codes.square().sum(), scale, rtol=1e-4)


@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("kind", list(GradientScale))
def test_gradients_of_scales_are_scaled_as_named(weight: bool, kind: GradientScale) -> None:
    x, count = X.reshape(6, 40), 240
    module = build(weight=weight, gradient_scale=kind)
    module(x)
    torch.autograd.backward(module(x).sum())
    found = module.scale.grad
    assert found is not None
    steps = x / module.scale.detach()
    raw = torch.where(steps < -8, -8.0, torch.where(steps > 7, 7.0, steps.round() - steps)).sum()
    if kind is GradientScale.LSQ:
        factor = (count * 7) ** -0.5
    else:
        factor = float((x.abs().sum() * 7) ** -0.5) if weight else count**-0.5 / 7
    assert torch.allclose(found, raw * factor, rtol=1e-4, atol=1e-6)


def test_learned_bits_choose_their_scale_and_settle() -> None:
    module = build(weight=True, granularity=RowGroups(2), learned_bits=True)
    weight = torch.randn(4, 30, generator=torch.Generator().manual_seed(1))
    module(weight)
    assert module.scale.shape == (7, 2)
    assert module.bits is not None
    with torch.no_grad():
        module.bits.copy_(torch.tensor([3.4, 8.2]))
    out = module(weight)
    torch.autograd.backward(out.square().sum())
    assert module.scale.grad is not None
    assert (module.scale.grad != 0).nonzero().tolist() == [[1, 0], [6, 1]]
    assert len(out[:2].unique()) <= 8
    assert module.widths() == (3, 8)
    module.keep_in_range()
    assert module.bits.tolist() == pytest.approx([3.4, 8.0])
    module.settle()
    assert module.spec.bits == 8
    assert module.bits is None
    assert torch.equal(module(weight)[2:], out[2:])


def test_a_step_beyond_its_bounds_is_used_within_them_and_brought_back() -> None:
    module = build()
    module(X)
    with torch.no_grad():
        module.scale.fill_(-1.0)
    assert torch.equal(module(X), X.div(1e-4).round().clamp(-8, 7).mul(1e-4))
    module.keep_in_range()
    assert module.scale.item() == pytest.approx(1e-4)


def test_steps_that_are_not_trained_have_no_gradient() -> None:
    module = build(train=False, symmetric=False)
    module(X)
    assert not any(p.requires_grad for p in module.parameters())


def test_state_comes_back_into_a_fresh_module() -> None:
    module = build(symmetric=False, granularity=PerHead())
    module(X)
    fresh = build(symmetric=False, granularity=PerHead())
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(5 * X), module(5 * X))  # and does not start anew from these
    assert torch.equal(copy.deepcopy(module)(X), module(X))


def test_casts_leave_what_was_learned_alone() -> None:
    module = build()
    module(X)
    scale = module.scale.clone()
    assert torch.equal(module.bfloat16().scale, scale)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(X.bfloat16()).dtype is torch.float32


def test_an_unseen_operand_is_refused_by_name() -> None:
    with pytest.raises(CalibrationError, match="site"):
        build().calculate_qparams()
    with pytest.raises(CalibrationError, match="NaN"):
        build()(torch.tensor([1.0, float("nan")]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LearnedStep(gradient_scale="lsq"), "GradientScale"),  # type: ignore[arg-type]
        (lambda: LearnedStep(train=1), "True or False"),  # type: ignore[arg-type]
        (lambda: TensorSpec(4, True, True, observer=LearnedStep(), narrow=True), "narrow=False"),
        (lambda: TensorSpec(4, False, True, observer=LearnedWeightStep()), "signed, symmetric"),
        (lambda: TensorSpec(4, True, True, PerHead(), LearnedWeightStep()), "along its rows"),
        (lambda: TensorSpec(4, True, True, PerHead(), LearnedStep(learned_bits=True)), "learned bits need one scale"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
