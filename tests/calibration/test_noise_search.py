"""A searched noise never makes a layer worse, and what is drawn can be drawn again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fxquant import Metric, Noise, NoisyBias, PerChannel, TensorSpec, TwinGELU
from fxquant.calibration.gradients import Sensitivity
from fxquant.calibration.noise_search import draw, search_noise
from fxquant.calibration.problem import Problem
from fxquant.calibration.sides import Part, Side
from fxquant.observers.operand_spec import OperandSpec
from tests.support.published import observer_of

SIGNED = TensorSpec(4, signed=True, symmetric=True)
AFFINE = TensorSpec(3)
KINDS: dict[str, OperandSpec] = {"signed": SIGNED, "affine": AFFINE, "gelu": TwinGELU(4)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem_of(kind: str = "signed", metric: Metric = Metric.L2, tokens: int = 60, **options: Any) -> Problem:
    """Return the problem of a layer ``(tokens, 12) -> 9`` at its initial scales."""
    x = torch.randn(tokens, 12, generator=generator(1)) * torch.rand(12, generator=generator(2))
    if kind == "gelu":
        x = torch.nn.functional.gelu(3 * x)
    weight = torch.randn(9, 12, generator=generator(3))
    spec = KINDS[kind]
    rows = TensorSpec(6, signed=True, symmetric=True, granularity=PerChannel(0))
    left, right = Part.of(observer_of(spec, x), x, (1.0,)), Part.of(observer_of(rows, weight, True), weight, (1.0,))
    sensitivity = Sensitivity.of(torch.randn(1, 1, tokens, 9, generator=generator(4)))
    return Problem(Side([left]), Side([right], weight=True), metric, None, sensitivity, **options)


def step(problem: Problem) -> float:
    qparams = problem.left.parts[0].qparams
    return float(qparams.scale if hasattr(qparams, "scale") else qparams.high)


def loss(problem: Problem, noise: Tensor) -> float:
    (part,) = problem.left.parts
    shifted = part.quantize(part.qparams, part.values + noise) - noise
    return float(problem.quadratic(problem.left)(shifted[None, None]).double().sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", Noise)
@pytest.mark.parametrize("metric", [Metric.L2, Metric.FISHER])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("coarse", [False, True])
def test_never_worse_than_none(kind: str, noise: Noise, metric: Metric, centred: bool, coarse: bool) -> None:
    problem = problem_of(kind, metric, centred=centred)
    options = NoisyBias(noise, mean_steps=20, range_steps=20, coarse=coarse)
    found = search_noise(problem, options, generator())
    assert found.shape == (12,)
    assert found.dtype is torch.float32
    assert loss(problem, found) <= loss(problem, torch.zeros(12))


def test_the_mean_alone_is_one_shift_for_all() -> None:
    problem = problem_of()
    found = search_noise(problem, NoisyBias(range=False, mean_steps=20, coarse=False), generator())
    assert torch.equal(found, found[:1].expand(12))
    tried = {k: loss(problem, torch.full((12,), step(problem) * k / 20)) for k in range(-20, 20)}
    best = min(tried, key=lambda k: tried[k])
    assert tried[best] < tried[0]
    # One step further on the loss is the same, as far as nothing is clipped.
    assert tried[round(float(found[0]) / step(problem) * 20)] <= tried[best] * (1 + 1e-5)


@pytest.mark.parametrize("noise", [Noise.UNIFORM, Noise.NORMAL])
def test_the_range_alone_is_a_multiple_of_what_is_drawn(noise: Noise) -> None:
    problem = problem_of(tokens=30)
    found = search_noise(problem, NoisyBias(noise, mean=False, range_steps=20, coarse=False), generator(7))
    direction = draw(noise, 12, generator(7)) * step(problem)
    tried = {k: loss(problem, direction * k / 20) for k in range(40)}
    best = min(tried, key=lambda k: tried[k])
    torch.testing.assert_close(found, direction * best / 20)


def test_the_range_starts_from_the_mean() -> None:
    problem = problem_of(tokens=30)
    options = {"mean_steps": 20, "range_steps": 20, "coarse": False}
    mean = search_noise(problem, NoisyBias(range=False, **options), generator())  # type: ignore[arg-type]
    both = search_noise(problem, NoisyBias(**options), generator())  # type: ignore[arg-type]
    direction = draw(Noise.UNIFORM, 12, generator()) * step(problem)
    factors = (both - mean) / direction
    torch.testing.assert_close(factors, factors[:1].expand(12), rtol=1e-3, atol=1e-4)
    assert loss(problem, both) <= loss(problem, mean)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"centred": True}, {"metric": Metric.FISHER}, {"whole": False}], ids=repr)
def test_a_fitted_noise_is_about_as_good_as_the_best_drawn_one(kind: str, options: dict[str, Any]) -> None:
    problem = problem_of(kind, tokens=200, **options)
    bias = {"mean_steps": 20, "range_steps": 20, "coarse": False}
    fitted = search_noise(problem, NoisyBias(Noise.FITTED, **bias), generator())  # type: ignore[arg-type]
    drawn = [search_noise(problem, NoisyBias(Noise.UNIFORM, **bias), generator(s)) for s in range(3)]  # type: ignore[arg-type]
    assert loss(problem, fitted) < 1.02 * min(loss(problem, each) for each in drawn)
    assert loss(problem, fitted) < 0.97 * loss(problem, torch.zeros(12))


def test_a_fitted_noise_stays_within_a_step() -> None:
    problem = problem_of()
    found = search_noise(problem, NoisyBias(Noise.FITTED, mean_steps=20, mean=False), generator())
    assert found.abs().max() <= 0.5 * step(problem) * (1 + 1e-5)
    again = search_noise(problem, NoisyBias(Noise.FITTED, mean_steps=20, mean=False), generator(9))
    assert torch.equal(found, again), "nothing is drawn"


@pytest.mark.parametrize("options", [{}, {"centred": True}, {"metric": Metric.FISHER, "centred": True}], ids=repr)
def test_the_form_of_the_input_errors(options: dict[str, Any]) -> None:
    """Up to a constant it is the error of the outputs."""
    problem = problem_of(**options)
    form = problem.left_form(10**6)
    (part,) = problem.left.parts
    values = []
    for noise in (torch.zeros(12), torch.rand(12, generator=generator(5)) * step(problem)):
        error = form.errors(part.quantize(part.qparams, part.values + noise) - noise - part.values)
        values.append(float(((error @ form.gram + 2 * form.cross) * error).sum()) - loss(problem, noise))
    assert abs(values[0] - values[1]) < 1e-4 * loss(problem, torch.zeros(12))
    assert len(problem.left_form(7).values) <= 7


def test_draws() -> None:
    for noise in (Noise.UNIFORM, Noise.NORMAL):
        assert torch.equal(draw(noise, 50, generator(3)), draw(noise, 50, generator(3)))
        assert not torch.equal(draw(noise, 50, generator(3)), draw(noise, 50, generator(4)))
    normal = torch.randn(50, generator=generator(3))
    assert torch.equal(draw(Noise.NORMAL, 50, generator(3)), 2 * normal - 1)
    uniform = draw(Noise.UNIFORM, 10_000, generator())
    assert -1 <= float(uniform.min()) < -0.99
    assert 0.99 < float(uniform.max()) <= 1
    assert abs(float(uniform.mean())) < 0.03


def test_scales_stay_as_they_are() -> None:
    problem = problem_of()
    before = problem.left.parts[0].qparams
    search_noise(problem, NoisyBias(mean_steps=20, range_steps=20), generator())
    assert problem.left.parts[0].qparams is before
