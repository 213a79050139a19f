"""Recipes that search, through the public functions: what is found and what is kept."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import (
    Inputs,
    LayerSpec,
    Metric,
    Noise,
    NoisyBias,
    PerChannel,
    PerTensor,
    QuantConfig,
    RowGroups,
    ScaleSearch,
    TensorSpec,
    TwinGELU,
    TwinSoftmax,
)
from fxquant.calibration import scales, searches
from fxquant.calibration.problem import Problem
from fxquant.graph.meta import record_of
from tests.support.models import Shared, images, small_vit
from tests.support.searching import HEADS, NOISE, QUICK, ROWS, SIGNED, X, calibrated, config, layer, mlp, observers, vit
from tests.support.tiers import keep_quick


@pytest.mark.parametrize("metric", Metric)
def test_every_metric_improves_a_layer(metric: Metric) -> None:
    """By the squared error, which none of them is far from, or by the direction, which says nothing of the size."""
    model = nn.Linear(12, 5).eval()
    x = torch.randn(400, 12, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.2, 2, 12)
    losses = []
    whole = replace(ROWS, granularity=PerTensor())
    for how in (replace(layer(metric=metric, rounds=3), weight=whole), LayerSpec(whole, SIGNED)):
        fake = fxquant.convert(calibrated(model, QuantConfig(how), x), "fake")
        with torch.no_grad():
            y, approximation = model(x), fake(x)
        if metric is Metric.PEARSON:
            y, approximation = y - y.mean(-1, keepdim=True), approximation - approximation.mean(-1, keepdim=True)
        directional = metric in (Metric.COSINE, Metric.PEARSON)
        error = -F.cosine_similarity(y, approximation, dim=-1) if directional else (y - approximation).square()
        losses.append(float(error.sum()))
    # What a gradient weighs is not the squared error itself.
    assert losses[0] < losses[1] * (1.1 if metric in (Metric.FISHER, Metric.HESSIAN) else 1)


@pytest.mark.parametrize(
    ("inputs_from", "noise"),
    keep_quick(product(Inputs, [None, NOISE]), (Inputs.FLOAT, None), (Inputs.QUANTISED, NOISE)),
)
def test_a_model_gets_better(inputs_from: Inputs, noise: NoisyBias | None) -> None:
    torch.manual_seed(1)
    model, x = small_vit(), images(8, 1)
    searched = config(noise, inputs_from=inputs_from, correct_bias=True, rounds=2)
    errors = []
    for how in (searched, QuantConfig(_without_search(), attention=True)):
        fake = fxquant.convert(calibrated(model, how, x), "fake")
        with torch.no_grad():
            errors.append(float((fake(x) - model(x)).square().sum()))
    assert errors[0] < 0.7 * errors[1]


def _without_search() -> LayerSpec:
    return LayerSpec(ROWS, SIGNED, query=HEADS, key=HEADS, value=HEADS, softmax=TwinSoftmax(4), gelu=TwinGELU(4))


@pytest.mark.parametrize(("weights", "inputs"), [(True, False), (False, True), (False, False)])
def test_only_what_is_asked_for_moves(weights: bool, inputs: bool) -> None:
    prepared = calibrated(mlp(), config(weights=weights, inputs=inputs, smallest=0.2, largest=0.3), X)
    for name, observer in observers(prepared).items():
        assert observer.refined
        found: Any = observer.calculate_qparams()
        initial: Any = observer.initial_qparams()
        one, two = (p.high if hasattr(p, "high") else p.scale for p in (found, initial))
        moved = weights if name.endswith("weight") else inputs
        assert bool((one < 0.31 * two).all()) if moved else torch.equal(one, two), name


@pytest.mark.parametrize("geometric", [False, True])
def test_every_scale_is_a_candidate(geometric: bool) -> None:
    how = config(steps=7, smallest=0.25, largest=1.2, geometric=geometric)
    prepared = calibrated(vit(), how, images(4))
    factors = torch.tensor([0.25 * 4.8 ** (i / 7) if geometric else 0.25 + i * 0.95 / 7 for i in range(7)])
    seen = 0
    for observer in observers(prepared).values():
        if isinstance(observer.spec, TwinSoftmax):
            continue
        found: Any = observer.calculate_qparams()
        initial: Any = observer.initial_qparams()
        ratio = (found.high / initial.high if hasattr(found, "high") else found.scale / initial.scale).reshape(-1, 1)
        assert bool(((ratio - factors).abs().min(1).values < 1e-5).all())
        seen += ratio.numel()
    assert seen > 50


@pytest.mark.parametrize("inputs_from", Inputs)
def test_what_later_products_read(inputs_from: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    original = scales.search_scales

    def spy(problem: Problem, *rest: Any) -> int:
        seen.append(problem.left.parts[0].values.clone())
        return original(problem, *rest)

    monkeypatch.setattr(searches, "search_scales", spy)
    model = mlp()
    prepared = calibrated(model, config(inputs_from=inputs_from, correct_bias=True), X)
    first, second = seen
    assert torch.equal(first, X)
    fake = fxquant.convert(prepared, "fake") if inputs_from is Inputs.QUANTISED else model
    values = Read(fake if isinstance(fake, fx.GraphModule) else fxquant.trace(fake))
    with torch.no_grad():
        values.run(X)
    torch.testing.assert_close(second, values.gelu, rtol=1e-6, atol=1e-6)


class Read(fx.Interpreter):
    """Run a graph and keep what GELU gives."""

    gelu: Tensor

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.target is F.gelu:
            self.gelu = result
        return result


@pytest.mark.parametrize("inputs_from", Inputs)
@pytest.mark.parametrize("noise", [None, NOISE, NoisyBias(Noise.FITTED, mean_steps=10)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_corrected_bias_leaves_no_mean_error(inputs_from: Inputs, noise: NoisyBias | None, bias: bool) -> None:
    model = nn.Linear(12, 5, bias=bias).eval()
    how = config(noise, inputs_from=inputs_from, correct_bias=True, rounds=2)
    prepared = calibrated(model, how, X[:25], X[25:])
    for target in ("fake", "int8"):
        with torch.no_grad():
            error = (fxquant.convert(prepared, target)(X) - model(X)).mean(0)  # type: ignore[arg-type]
        assert error.abs().max() < 1e-5
    plain = fxquant.convert(calibrated(model, config(noise, inputs_from=inputs_from, rounds=2), X), "fake")
    with torch.no_grad():
        assert (plain(X) - model(X)).mean(0).abs().max() > 1e-3


def test_a_corrected_convolution_leaves_no_mean_error() -> None:
    model, x = nn.Conv2d(3, 6, 4, 4).eval(), images(4)
    for noise in (None, NOISE):
        prepared = calibrated(model, config(noise, correct_bias=True), x[:3], x[3:])
        for target in ("fake", "int8"):
            with torch.no_grad():
                error = fxquant.convert(prepared, target)(x) - model(x)  # type: ignore[arg-type]
            assert error.mean((0, 2, 3)).abs().max() < 1e-5


class Branches(nn.Module):
    """Two layers that read one value, and a third that reads another."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.out = nn.Linear(12, 6), nn.Linear(12, 6, bias=False), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x, (12,))
        y: Tensor = self.out(self.q(x) * self.k(x))
        return y


@pytest.mark.parametrize("metric", [Metric.L2, Metric.FISHER, Metric.COSINE, Metric.HESSIAN])
def test_layers_that_share_an_input_share_its_quantisation(metric: Metric) -> None:
    torch.manual_seed(0)
    prepared = calibrated(Branches(), config(NOISE, metric=metric, correct_bias=True), X)
    names = observers(prepared)
    assert set(names) == {"q.input", "q.weight", "k.weight", "out.input", "out.weight"}
    assert names["q.input"].noise.shape == (12,)
    assert names["q.weight"].bias_shift.shape == names["k.weight"].bias_shift.shape == (6,)
    assert not names["q.input"].bias_shift.numel()
    q, k = (next(n for n in prepared.graph.nodes if (r := record_of(n)) and r.label == label) for label in "qk")
    assert q.args[0] is k.args[0]
    fake, int8 = fxquant.convert(prepared, "fake"), fxquant.convert(prepared)
    with torch.no_grad():
        torch.testing.assert_close(int8(X), fake(X), rtol=1e-4, atol=1e-4)
    assert fxquant.report(int8).coverage == 1.0


def test_a_module_used_twice_is_searched_twice() -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 8)
    prepared = calibrated(Shared(), config(NOISE, correct_bias=True), x)
    weights = [m for name, m in observers(prepared).items() if "weight" in name]
    assert len(weights) == 2
    assert not torch.equal(weights[0].found_scale, weights[1].found_scale)
    assert not torch.equal(weights[0].bias_shift, weights[1].bias_shift)
    with torch.no_grad():
        fake, int8 = fxquant.convert(prepared, "fake")(x), fxquant.convert(prepared)(x)
    torch.testing.assert_close(int8, fake, rtol=1e-4, atol=1e-4)


def test_products_of_a_recipe_may_differ() -> None:
    """Each is searched as its own spec says; what has none keeps its statistics, what is float stays so."""
    how = (
        config(metric=Metric.FISHER)
        .set_module_name("blocks.0.mlp.fc1", LayerSpec(ROWS, SIGNED))
        .set_module_name("blocks.0.mlp.fc2", None)
        .set_module_name(
            "blocks.0.attn.proj", layer(NOISE, metric=Metric.HESSIAN, gradient=fxquant.Gradient.PREDICTION)
        )
        .set_module_name("head", layer(inputs_from=Inputs.QUANTISED, weight_error=False))
    )
    prepared = calibrated(vit(), how, images(4))
    found = observers(prepared)
    assert not found["blocks.0.mlp.fc1.input"].refined
    assert found["blocks.0.attn.proj.input"].noise.numel() == 32
    assert found["head.input"].refined
    assert not any(name.startswith("blocks.0.mlp.fc2") for name in found)
    assert not found["blocks.0.attn.qkv.input"].noise.numel()
    with torch.no_grad():
        assert fxquant.convert(prepared)(images(2)).shape == (2, 10)


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(0), RowGroups(5)])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_granularities_and_zero_points(granularity: Any, symmetric: bool) -> None:
    weight = TensorSpec(5, signed=True, symmetric=symmetric, granularity=granularity)
    spec = LayerSpec(weight, TensorSpec(6), search=ScaleSearch(**QUICK), noise=NOISE)
    prepared = calibrated(nn.Linear(12, 5), QuantConfig(spec), X)
    with torch.no_grad():
        fake, int8 = fxquant.convert(prepared, "fake")(X), fxquant.convert(prepared)(X)
    torch.testing.assert_close(int8, fake, rtol=1e-4, atol=1e-4)
