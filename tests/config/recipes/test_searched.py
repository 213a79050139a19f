"""Recipes: names, bits, options, and what each of them refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import fxquant
from fxquant import (
    EMA,
    OMSE,
    AdaLogGELU,
    AdaLogSoftmax,
    ConfigError,
    Gradient,
    Inputs,
    LayerSpec,
    Metric,
    MinMax,
    Noise,
    NoisyBias,
    OutlierTokens,
    Percentile,
    PerChannel,
    PerHead,
    PerProjection,
    PerTensor,
    PerToken,
    QuantConfig,
    ScaleSearch,
    TensorSpec,
    TwinGELU,
    TwinSoftmax,
    recipe,
    recipes,
)
from fxquant.config.folds import Folds, Reparameterize
from fxquant.graph.meta import record_of
from fxquant.observers import ObserverOptions
from tests.support.models import images, small_swin, small_vit
from tests.support.tiers import keep_quick

PLACED = ("fqvit", "itpn", "psaq")  # these round values, whatever reads them
OBSERVERS = {"minmax": MinMax(), "ema": EMA(), "percentile": Percentile(), "omse": OMSE()}


def test_the_published_observers_are_recipes() -> None:
    assert {"default", *OBSERVERS} <= set(recipes())
    assert len(set(recipes())) == len(recipes())


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize(("w_bits", "a_bits"), [(8, 8), (4, 8), (6, 4), (2, 3)])
def test_bits_and_granularity(name: str, w_bits: int, a_bits: int) -> None:
    layer = recipe(name, w_bits, a_bits).layer
    assert layer is not None
    assert layer.weight == TensorSpec(w_bits, signed=True, symmetric=True, granularity=PerChannel(0))
    assert layer.activation == TensorSpec(a_bits, granularity=PerTensor(), observer=OBSERVERS[name])


@pytest.mark.parametrize(
    ("name", "options", "observer"),
    [
        ("ema", {"sigma": 0.5}, EMA(0.5)),
        ("percentile", {"alpha": 0.99, "sigma": 0.1}, Percentile(0.99, 0.1)),
        ("omse", {"last_batch_only": True}, OMSE(last_batch_only=True)),
    ],
)
def test_options_reach_the_observer(name: str, options: dict[str, Any], observer: ObserverOptions) -> None:
    layer = recipe(name, **options).layer
    assert layer is not None
    assert layer.activation is not None
    assert layer.activation.observer == observer


def test_switches() -> None:
    config = recipe("minmax", head=False, attention=True)
    assert (config.patch_embed, config.head, config.attention) == (True, False, True)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("min_max",), {}, "unknown recipe 'min_max', did you mean 'minmax': expected one of "),
        (("minmax", 1), {}, "bits must be an integer from 2 to 8, got 1"),
        (("minmax", 8, 12), {}, "bits must be an integer from 2 to 8, got 12"),
        (("minmax", 8, 7.5), {}, "bits must be an integer from 2 to 8, got 7.5"),
        (("minmax",), {"head": 1}, "head must be True or False, got 1"),
        (("minmax",), {"alpha": 0.9}, "recipe 'minmax' does not take these options"),
        (("percentile",), {"alpha": 0.3}, "alpha must lie in (0.5, 1], got 0.3"),
        (("ema",), {"sigma": 0}, "sigma must lie in (0, 1], got 0"),
        (("ptq4vit",), {"twin": False}, "recipe 'ptq4vit' does not take these options"),
        (("ptq4vit",), {"metric": "mse"}, "expected one of 'cosine', 'pearson', 'l1', 'l2', 'linear_weighted_l2', "),
        (("ptq4vit",), {"metric": Noise.UNIFORM}, "or a member of Metric, got <Noise.UNIFORM"),
        (
            ("ptq4vit",),
            {"gradient": "kl"},
            "expected one of 'sampled_output', 'sampled_label', 'prediction' or a member of Gradient, got 'kl'",
        ),
        (
            ("ptq4vit",),
            {"inputs_from": "int8"},
            "expected one of 'float', 'quantised' or a member of Inputs, got 'int8'",
        ),
        (("ptq4vit",), {"max_rows": 0}, "ScaleSearch.max_rows must be a whole number of at least 1, got 0"),
        (("base_ptq",), {"rounds": 1.5}, "ScaleSearch.rounds must be a whole number of at least 1, got 1.5"),
        (("base_ptq",), {"coarse": 1}, "ScaleSearch.coarse must be True or False, got 1"),
        (("base_ptq", 1), {}, "bits must be an integer from 2 to 8, got 1"),
        (("ptq4vit",), {"noise": "uniform"}, "recipe 'ptq4vit' does not take these options"),
        (("vanilla",), {"metric": "l2"}, "recipe 'vanilla' does not take these options"),
        (
            ("noisyquant",),
            {"noise": "gauss"},
            "expected one of 'uniform', 'normal', 'fitted' or a member of Noise, got 'gauss'",
        ),
        (("noisyquant",), {"mean": "yes"}, "NoisyBias.mean must be True or False, got 'yes'"),
        (("noisyquant",), {"clip": 2}, "ScaleSearch.inputs must be True or False, got 2"),
        (("noisyquant",), {"twin_gelu": True}, "recipe 'noisyquant' does not take these options"),
        (("noisyquant_ptq4vit",), {"noise": "gauss"}, "or a member of Noise, got 'gauss'"),
    ],
)
def test_refused(arguments: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        recipe(*arguments, **options)


TURNED = {"rotate", "glfq"}  # which need a residual stream that norms read


@pytest.mark.parametrize("name", [name for name in recipes() if name not in TURNED])
def test_each_recipe_quantises(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), nn.LayerNorm(4), nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 6)),
        nn.Flatten(),  # to logits, which some metrics ask for
    )
    images = torch.randn(4, 3, 8, 8)
    quantized = fxquant.quantize(model.eval(), [images], recipe=name)
    with torch.no_grad():
        difference = quantized(images) - model(images)
    assert 0 < difference.abs().max() < 0.2
    rows = [
        row for row in fxquant.report(quantized) if row.requested or name != "itpn"
    ]  # whose first layers read floats
    assert all(row.int8 for row in rows)
    assert rows or name == "itpn"


MODELS = {"vit": small_vit(), "swin": small_swin()}


# What others put together, or the same with another observer.
COVERED = {"base_ptq", "noisyquant_ptq4vit", "ema", "omse", "percentile"}


@pytest.mark.parametrize(
    ("name", "model"),
    keep_quick(
        [
            (name, model)
            for name in recipes()
            for model in MODELS
            if model == "vit" or name not in {*TURNED, *OBSERVERS}
        ],
        *((name, "vit") for name in recipes() if name not in COVERED),
        *(("ptq4vit", "swin"), ("psaq", "swin")),
    ),
)
def test_each_recipe_runs_on_int8(name: str, model: str) -> None:
    x = images(2)
    prepared = fxquant.prepare(MODELS[model], recipe(name), x)
    fxquant.calibrate(prepared, [x], progress=False)
    fake, int8 = (fxquant.convert(prepared, target) for target in ("fake", "int8"))  # type: ignore[arg-type]
    with torch.no_grad():
        y, simulated, integer = MODELS[model](x), fake(x), int8(x)
    assert 0 < (simulated - y).norm() < (0.3 if name in (*PLACED, "vvtq") else 0.15) * y.norm()
    # Values at the boundary of two codes may go either way.
    assert (integer - simulated).norm() < 0.1 * y.norm()
    for row in fxquant.report(int8):
        assert row.int8 or row.reason is not None
        assert row.int8 or not row.requested
    attention = [row.int8 for row in fxquant.report(int8) if "attn.q" in row.name and "qkv" not in row.name]
    assert not attention or all(attention) == (
        name.endswith(("ptq", "ptq4vit", "vvtq", "adalog", "glfq")) or name in PLACED
    )


def layer_of(config: QuantConfig, operator: str | None = None) -> LayerSpec:
    override = config.override_for(operator, "any") if operator else None
    layer = override.spec if override else config.layer
    assert layer is not None
    return layer


def search_of(config: QuantConfig, operator: str | None = None) -> ScaleSearch:
    search = layer_of(config, operator).search
    assert search is not None
    return search


def signed(bits: int, granularity: Any = PerTensor(), narrow: bool = False) -> TensorSpec:  # noqa: B008
    return TensorSpec(bits, signed=True, symmetric=True, granularity=granularity, narrow=narrow)


def test_base_ptq_as_published() -> None:
    config = recipe("base_ptq", 6, 5, published=True)
    search = search_of(config)
    assert search == search_of(config, "conv2d")
    assert (search.metric, search.smallest, search.largest, search.steps, search.rounds) == (
        Metric.COSINE,
        0.5,
        1.2,
        100,
        1,
    )
    multipliers = torch.tensor(search.multipliers)
    torch.testing.assert_close(multipliers, torch.arange(100) * 0.007 + 0.5)
    assert (search.coarse, search.max_rows, search.inputs_from) == (False, None, Inputs.FLOAT)
    assert (search.weights, search.inputs, search.weight_error, search.correct_bias) == (True, True, True, False)
    layer = layer_of(config)
    assert layer.weight == signed(6, PerProjection())
    assert layer.activation == signed(5)
    assert layer.gelu is None
    assert layer.query == layer.key == layer.softmax == layer.value == signed(5, PerHead())
    assert layer.noise is None
    patches = layer_of(config, "conv2d")
    assert (patches.weight, patches.activation) == (signed(6), None)
    assert (config.patch_embed, config.head, config.attention) == (True, True, True)


def test_ptq4vit_as_published() -> None:
    config = recipe("ptq4vit", 6, 5, published=True)
    search = search_of(config)
    assert (search.metric, search.gradient) == (Metric.HESSIAN, Gradient.PREDICTION)
    assert (search.smallest, search.largest, search.steps, search.rounds) == (0.01, 1.2, 100, 3)
    torch.testing.assert_close(torch.tensor(search.multipliers), torch.arange(100) * 0.0119 + 0.01)
    assert (search.coarse, search.max_rows, search.inputs_from) == (False, None, Inputs.FLOAT)
    assert (search.weight_error, search.correct_bias) == (True, False)
    layer = layer_of(config)
    assert layer.weight == signed(6, PerProjection())
    assert layer.gelu == TwinGELU(5, power_of_two=False, published=True)
    assert layer.softmax == TwinSoftmax(5, power_of_two=True, published=True)
    assert layer.query == layer.key == layer.value == signed(5, PerHead())
    patches = layer_of(config, "conv2d")
    assert (patches.weight, patches.activation) == (signed(6, PerChannel(0)), None)
    assert (config.patch_embed, config.head, config.attention) == (True, True, True)


def test_adalog() -> None:
    config = recipe("adalog", 6, 5, published=True, rounds=2)
    layer, search = layer_of(config), search_of(config)
    assert (layer.weight, layer.activation) == (TensorSpec(6, granularity=PerChannel(0)), TensorSpec(5))
    assert (layer.gelu, layer.softmax) == (AdaLogGELU(5, published=True), AdaLogSoftmax(5, published=True))
    assert layer.query == layer.key == layer.value == TensorSpec(5, granularity=PerHead())
    assert (search.metric, search.inputs_from, search.weights_first, search.rounds) == (
        Metric.L2,
        Inputs.FLOAT,
        True,
        2,
    )
    assert (config.patch_embed, config.head, config.attention) == (True, True, True)
    assert config.folds == Folds(norms=Reparameterize(strict=False))
    uniform = layer_of(recipe("adalog", 6, 5, softmax=False, gelu=False))
    assert (uniform.gelu, uniform.softmax) == (None, layer.query)
    at_8_bits = layer_of(recipe("adalog", 4, 8))
    assert (at_8_bits.gelu, at_8_bits.softmax) == (None, TensorSpec(8, granularity=PerHead()))
    published = layer_of(recipe("adalog", 8, 8, published=True))
    assert (published.gelu, published.softmax) == (AdaLogGELU(8, published=True), AdaLogSoftmax(8, published=True))


def test_noisyquant_as_published() -> None:
    config = recipe("noisyquant", 6, 5, published=True)
    layer, search = layer_of(config), search_of(config)
    assert (layer.weight, layer.activation) == (signed(6, PerChannel(0), narrow=True), signed(5))
    assert (search.metric, search.inputs_from) == (Metric.L2, Inputs.QUANTISED)
    assert (search.weights, search.inputs, search.weight_error, search.rounds) == (False, True, False, 1)
    assert (search.coarse, search.max_rows, search.correct_bias) == (False, None, False)
    assert search.clip_evenly
    assert not search_of(config, "conv2d").clip_evenly
    # c = max k / 1000 over 15, as multiples of max / 15.5.
    torch.testing.assert_close(torch.tensor(search.multipliers), torch.arange(1, 1001) / 1000 * 15.5 / 15)
    assert layer.noise == NoisyBias(Noise.NORMAL, mean_steps=200, range_steps=1000, coarse=False)
    assert (config.patch_embed, config.head, config.attention) == (False, False, False)


def test_vanilla_takes_the_largest_value() -> None:
    config = recipe("vanilla", 6, 5)
    layer, search = layer_of(config), search_of(config)
    assert (layer.weight, layer.activation) == (signed(6, PerChannel(0), narrow=True), signed(5))
    assert (search.weights, search.inputs, search.inputs_from) == (False, True, Inputs.QUANTISED)
    assert search.multipliers == (15.5 / 15,)  # max / 15 as a multiple of max / 15.5
    assert not search_of(config, "conv2d").inputs
    assert layer.noise is None


def test_noisy_ptq4vit_has_the_options_of_both() -> None:
    for published in (False, True):
        config = recipe("noisyquant_ptq4vit", 6, 5, published=published, twin_gelu=False, noise="uniform", range=False)
        plain = recipe("ptq4vit", 6, 5, published=published, twin_gelu=False)
        for operator in (None, "conv2d"):
            noisy, quiet = layer_of(config, operator), layer_of(plain, operator)
            assert noisy.noise == NoisyBias(Noise.UNIFORM, range=False, coarse=not published)
            assert noisy.search == quiet.search
            assert (noisy.weight, noisy.softmax, noisy.gelu) == (quiet.weight, quiet.softmax, quiet.gelu)


def test_options_of_searches() -> None:
    options: dict[str, Any] = {"metric": "l1", "gradient": Gradient.PREDICTION, "inputs_from": "quantised"}
    options |= {"rounds": 2, "coarse": False, "max_rows": 7, "correct_bias": False}
    for name in ("base_ptq", "ptq4vit", "noisyquant", "noisyquant_ptq4vit"):
        for published in (False, True):
            search = search_of(recipe(name, published=published, **options))
            assert (search.metric, search.gradient, search.inputs_from) == (
                Metric.L1,
                Gradient.PREDICTION,
                Inputs.QUANTISED,
            )
            assert (search.rounds, search.coarse, search.max_rows, search.correct_bias) == (2, False, 7, False)
    layer = layer_of(recipe("ptq4vit", 6, 5, per_channel=False, twin_softmax=False, power_of_two=True))
    assert layer.weight == signed(6, PerProjection())
    assert layer.softmax == signed(5, PerHead())
    assert layer.gelu == TwinGELU(5, power_of_two=True)
    assert layer_of(recipe("ptq4vit", twin_gelu=False)).gelu is None
    assert layer_of(recipe("ptq4vit", published=True, per_channel=True)).weight == signed(8, PerChannel(0))
    noisy = layer_of(recipe("noisyquant", clip=False, weights=False, noise="normal", mean=False))
    assert noisy.search is not None
    assert (noisy.search.inputs, noisy.search.weights) == (False, False)
    assert noisy.noise is not None
    assert (noisy.noise.noise, noisy.noise.mean, noisy.noise.range) == (Noise.NORMAL, False, True)
    assert layer_of(recipe("noisyquant", mean=False, range=False)).noise is None


@pytest.mark.parametrize("name", ["base_ptq", "ptq4vit", "noisyquant", "noisyquant_ptq4vit", "vanilla"])
def test_switches_of_searches(name: str) -> None:
    config = recipe(name, patch_embed=False, head=False, attention=False)
    assert (config.patch_embed, config.head, config.attention) == (False, False, False)


@pytest.mark.parametrize("symmetric", [False, True])
def test_dynamic_leaves_the_image_and_attention_one_scale(symmetric: bool) -> None:
    config = fxquant.recipe("dynamic", 4, 6, symmetric=symmetric, attention=True)
    gm = fxquant.prepare(small_vit(), config)
    records = [r for r in map(record_of, gm.graph.nodes) if r is not None]
    specs = {o.name: o.spec for r in records for o in r.operands}
    assert specs["patch_embed.proj.input"] == TensorSpec(8)
    assert specs["blocks.0.attn.qk.query"] == TensorSpec(6)
    found = specs["blocks.0.mlp.fc2.input"]
    assert found == TensorSpec(6, signed=symmetric, symmetric=symmetric, granularity=PerToken())
    assert specs["blocks.0.mlp.fc2.weight"] == TensorSpec(4, signed=True, symmetric=True, granularity=PerChannel(0))


def test_dynamic_may_be_for_outlier_tokens_alone() -> None:
    layer = layer_of(fxquant.recipe("dynamic", outliers=4))
    assert layer.activation == TensorSpec(granularity=OutlierTokens(4))
    with pytest.raises(ConfigError, match=r"OutlierTokens\.ratio must be a finite number of at least 1, got 0"):
        fxquant.recipe("dynamic", outliers=0)


def test_dynamic_keeps_what_an_outlier_token_spoils_for_one_scale() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(16, 16).eval(), torch.randn(1, 20, 16)
    x[0, 3] *= 1000
    y = model(x).detach()
    errors = {}
    for name in ("minmax", "dynamic"):
        quantized = fxquant.quantize(model, [x], name, progress=False)
        errors[name] = float((quantized(x).detach() - y)[0, 4:].norm() / y[0, 4:].norm())
    assert errors["dynamic"] < 0.02 < errors["minmax"]
