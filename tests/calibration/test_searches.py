"""Recipes that search, through the public functions: what is found, what is kept, and what is refused."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import (
    CalibrationError,
    ConfigError,
    Inputs,
    LayerSpec,
    Metric,
    Noise,
    NoisyBias,
    PerChannel,
    PerHead,
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
from fxquant.meta import record_of
from fxquant.observers.base import Observer
from tests.models import Shared, images, small_vit

SIGNED = TensorSpec(4, signed=True, symmetric=True)
HEADS = TensorSpec(4, signed=True, symmetric=True, granularity=PerHead())
ROWS = TensorSpec(4, signed=True, symmetric=True, granularity=PerChannel(0))
NOISE = NoisyBias(mean_steps=10, range_steps=10)
QUICK: dict[str, Any] = {"steps": 12, "smallest": 0.3, "rounds": 1, "coarse": False}


def layer(noise: NoisyBias | None = None, **search: Any) -> LayerSpec:
    options = ScaleSearch(**(QUICK | search))
    twins: dict[str, Any] = {"softmax": TwinSoftmax(4), "gelu": TwinGELU(4)}
    return LayerSpec(ROWS, SIGNED, query=HEADS, key=HEADS, value=HEADS, search=options, noise=noise, **twins)


def config(noise: NoisyBias | None = None, **search: Any) -> QuantConfig:
    return QuantConfig(layer(noise, **search), attention=True)


def calibrated(model: nn.Module, how: QuantConfig, *batches: Any, **options: Any) -> fx.GraphModule:
    prepared = fxquant.prepare(model.eval(), how)
    return fxquant.calibrate(prepared, batches, **({"progress": False} | options))


def state(prepared: fx.GraphModule) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in prepared.named_buffers() if name.startswith("observers.")}


def assert_same(one: fx.GraphModule, two: fx.GraphModule) -> None:
    first, second = state(one), state(two)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def observers(prepared: fx.GraphModule) -> dict[str, Observer]:
    return {m.operand: m for m in prepared.modules() if isinstance(m, Observer)}


def vit() -> nn.Module:
    torch.manual_seed(0)
    return small_vit(depth=1)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 5)).eval()


X = torch.randn(40, 12, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.2, 2, 12)
RICH = config(
    NoisyBias(Noise.NORMAL, mean_steps=10, range_steps=10), metric=Metric.FISHER, correct_bias=True, max_rows=30
)


# What is refused.


@pytest.mark.parametrize("noise", [None, NOISE])
def test_a_search_is_more_than_running_the_model(noise: NoisyBias | None) -> None:
    for target in ("fake", "int8"):
        prepared = fxquant.prepare(mlp(), config(noise))
        message = (
            "this recipe searches scales, which running the model does not do: run fxquant.calibrate(prepared, batches)"
        )
        for _ in range(2):
            with pytest.raises(CalibrationError, match=re.escape(message)):
                fxquant.convert(prepared, target)  # type: ignore[arg-type]
            prepared(X)
        fxquant.convert(fxquant.calibrate(prepared, [X], progress=False), target)  # type: ignore[arg-type]


def test_noise_alone_is_a_search_too() -> None:
    how = QuantConfig(LayerSpec(ROWS, SIGNED, noise=NOISE))
    prepared = fxquant.prepare(mlp(), how)
    prepared(X)
    with pytest.raises(CalibrationError, match="this recipe searches"):
        fxquant.convert(prepared)
    prepared = calibrated(mlp(), how, X)
    for name, observer in observers(prepared).items():
        assert bool(observer.noise.numel()) == name.endswith("input")
        torch.testing.assert_close(observer.calculate_qparams().scale, observer.initial_qparams().scale)
    assert fxquant.convert(prepared)(X).shape == (40, 5)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "expected at least one calibration batch, found none"),
        ([X[:0]], "batch 0: expected images, found an empty batch of shape (0, 12)"),
        ([X, X[:0]], "batch 1: expected images, found an empty batch of shape (0, 12)"),
        ([X * float("nan")], "batch 0: expected finite pixels, found NaN values"),
        ([X, X * float("inf")], "batch 1: expected finite pixels, found infinite values"),
        ([X, "images"], "batch 1: expected a tensor of images or an (images, targets) pair, found str"),
        ([X, X[0, 0] + 0 * X], "batch 1: expected images, found the constant"),
        ([X[:, :11]], "batch 0: the model does not accept an input of shape (40, 11)"),
        ([X, X[:, :11]], "batch 1: expected shape (B, 12) as in the first batch, found (40, 11)"),
    ],
)
def test_bad_batches_leave_nothing_behind(batches: list[Any], message: str) -> None:
    prepared = fxquant.prepare(mlp(), RICH)
    before = state(prepared)
    with pytest.raises(CalibrationError, match=re.escape(message)):
        fxquant.calibrate(prepared, batches, progress=False)
    after = state(prepared)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_granularities_that_cannot_be_searched() -> None:
    channels = LayerSpec(ROWS, TensorSpec(granularity=PerChannel(1)), search=ScaleSearch())
    message = "scales of granularity PerChannel(axis=1) cannot be searched for an image: use PerTensor, or search=None"
    prepared = fxquant.prepare(nn.Conv2d(3, 4, 2, 2).eval(), QuantConfig(channels))
    before = state(prepared)
    with pytest.raises(ConfigError, match=re.escape(message)):
        fxquant.calibrate(prepared, [torch.randn(2, 3, 8, 8)], progress=False)
    assert all(torch.equal(t, state(prepared)[name]) for name, t in before.items())


def test_nothing_to_search() -> None:
    assert calibrated(nn.Identity(), config(), X) is not None


# What is found.


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


@pytest.mark.parametrize("inputs_from", Inputs)
@pytest.mark.parametrize("noise", [None, NOISE])
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


# What it does not depend on.


def test_the_same_seed_gives_the_same() -> None:
    model, x = vit(), images(6)
    one, same = (calibrated(model, RICH, x, seed=3) for _ in range(2))
    other = calibrated(model, RICH, x, seed=4)
    assert_same(one, same)
    assert any(not torch.equal(t, state(other)[name]) for name, t in state(one).items())
    torch.manual_seed(99)  # nor on anybody else's randomness, which it leaves alone
    before = torch.random.get_rng_state()
    assert_same(one, calibrated(model, RICH, x, seed=3))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "how", [config(), config(NOISE, correct_bias=True, max_rows=40), RICH], ids=["scales", "noise", "rich"]
)
def test_batches_may_be_split(how: QuantConfig) -> None:
    """Where the statistics do not depend on how, neither does what is found."""
    model, x = vit(), images(6)
    whole, split = calibrated(model, how, x), calibrated(model, how, x[:2], x[2:5], x[5:])
    first, second = observers(whole), observers(split)
    same = [torch.allclose(first[name].found_scale, second[name].found_scale, rtol=1e-3) for name in first]
    # Rounding of the float model may tip a tie.
    assert same.count(False) <= 1
    assert first["blocks.0.attn.qkv.input"].noise.shape == second["blocks.0.attn.qkv.input"].noise.shape


def test_pairs_with_targets() -> None:
    model, x = vit(), images(4)
    targets = torch.zeros(2, dtype=torch.int64)
    plain, pairs = calibrated(model, RICH, x[:2], x[2:]), calibrated(model, RICH, (x[:2], targets), [x[2:], targets])
    assert_same(plain, pairs)
    generator = calibrated(model, RICH, *(x.split(2)))
    assert_same(plain, generator)


@pytest.mark.parametrize(
    "how", [RICH, config(inputs_from=Inputs.QUANTISED, metric=Metric.HESSIAN)], ids=["rich", "quantised"]
)
def test_memory_changes_nothing(how: QuantConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, x = vit(), images(4)
    spilled: list[Path] = []
    original = torch.save

    def save(value: Any, path: Path) -> None:
        spilled.append(path)
        original(value, path)

    monkeypatch.setattr(torch, "save", save)
    ample = calibrated(model, how, x[:2], x[2:])
    assert not spilled
    scarce = calibrated(model, how, x[:2], x[2:], memory=1000)
    assert spilled
    assert not list(tmp_path.iterdir())
    first, second = observers(ample), observers(scarce)
    same = [torch.allclose(first[name].found_scale, second[name].found_scale, rtol=1e-3) for name in first]
    assert same.count(False) <= 1


def test_inference_mode_and_frozen_weights() -> None:
    model, x = vit(), images(4)
    expected = calibrated(model, RICH, x)
    with torch.inference_mode():
        found = calibrated(model, RICH, x)
    assert_same(expected, found)
    assert_same(expected, calibrated(model.requires_grad_(False), RICH, x))
    with torch.no_grad():
        assert torch.equal(fxquant.convert(found)(x), fxquant.convert(expected)(x))


def test_calibrating_again_starts_from_all_statistics() -> None:
    model, x = mlp(), X
    prepared = calibrated(model, RICH, x)
    fxquant.calibrate(prepared, [2 * x], progress=False)
    observer = observers(prepared)["0.input"]
    assert int(observer.batches) == 2
    both = calibrated(model, RICH, x, 2 * x)
    torch.testing.assert_close(observer.initial_qparams(), observers(both)["0.input"].initial_qparams())
    with torch.no_grad():
        assert fxquant.convert(prepared)(x).shape == (40, 5)


# Interruption and progress.


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("name", ["search_scales", "search_noise"])
@pytest.mark.parametrize("again", [False, True])
def test_an_interrupted_search_leaves_everything_as_it_was(
    error: type[BaseException], name: str, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, x = vit(), images(4)
    prepared = calibrated(model, RICH, images(2, 1)) if again else fxquant.prepare(model, RICH)
    before, modules = state(prepared), dict(prepared.named_modules())
    calls: list[None] = []
    original: Callable[..., Any] = getattr(searches, name)

    def interrupted(*arguments: Any) -> Any:
        calls.append(None)
        if len(calls) == 3:
            raise error
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(searches, name, interrupted)
        with pytest.raises(error):
            fxquant.calibrate(prepared, [x], progress=False, memory=1000)
    after = state(prepared)
    assert after.keys() == before.keys()
    for key, value in before.items():
        assert torch.equal(after[key], value), key
    assert dict(prepared.named_modules()) == modules
    assert not list(tmp_path.iterdir())
    # And calibration can be begun anew.
    fresh = calibrated(model, RICH, images(2, 1)) if again else fxquant.prepare(model, RICH)
    for each in (prepared, fresh):
        fxquant.calibrate(each, [x], progress=False)
    assert_same(prepared, fresh)


def test_observers_of_torch_ao_are_searched_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    ao = pytest.importorskip("torch.ao.quantization")
    torch_ao = pytest.importorskip("fxquant.torch_ao")
    spec = torch_ao.TorchAo(ao.MovingAverageMinMaxObserver.with_args(averaging_constant=0.5)).spec()
    how = QuantConfig(LayerSpec(activation=spec, search=ScaleSearch(**(QUICK | {"smallest": 0.2, "largest": 0.3}))))
    prepared = fxquant.prepare(mlp(), how)
    before = state(prepared)
    with monkeypatch.context() as patch:
        patch.setattr(searches, "search_scales", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fxquant.calibrate(prepared, [X], progress=False)
    after = state(prepared)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    fxquant.calibrate(prepared, [X, 2 * X], progress=False)
    observer: Any = observers(prepared)["0.input"]
    # Of torch.ao's own range, which is not the running one.
    initial, _ = observer.inner.calculate_qparams()
    torch.testing.assert_close(observer.initial_qparams().scale, initial[0])
    ratio = observer.calculate_qparams().scale / initial[0]
    assert 0.19 < float(ratio) < 0.31


def test_progress_names_the_products(capsys: pytest.CaptureFixture[str]) -> None:
    calibrated(mlp(), config(), X, progress=True)
    shown = capsys.readouterr().err
    assert "calibrate 0" in shown
    assert "calibrate 2" in shown
    assert "2/2" in shown
    calibrated(mlp(), config(), X)
    assert capsys.readouterr() == ("", "")


def test_the_model_is_left_alone() -> None:
    model = vit()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    prepared = fxquant.prepare(model, RICH)
    weights = {name: t.clone() for name, t in prepared.named_parameters()}
    assert fxquant.calibrate(prepared, [images(2)], progress=False) is prepared
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(torch.equal(t, weights[name]) for name, t in prepared.named_parameters())
    assert not prepared.training
