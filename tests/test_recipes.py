"""Recipes: names, bits, options, and what each of them refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import fxquant
from fxquant import EMA, OMSE, ConfigError, MinMax, Percentile, PerChannel, PerTensor, TensorSpec, recipe, recipes
from fxquant.observers import ObserverOptions

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
        (("min_max",), {}, "unknown recipe 'min_max': expected one of "),
        (("minmax", 1), {}, "bits must be an integer from 2 to 8, got 1"),
        (("minmax", 8, 16), {}, "bits must be an integer from 2 to 8, got 16"),
        (("minmax", 8, 7.5), {}, "bits must be an integer from 2 to 8, got 7.5"),
        (("minmax",), {"head": 1}, "head must be True or False, got 1"),
        (("minmax",), {"alpha": 0.9}, "recipe 'minmax' does not take these options"),
        (("percentile",), {"alpha": 0.3}, "alpha must lie in (0.5, 1], got 0.3"),
        (("ema",), {"sigma": 0}, "sigma must lie in (0, 1], got 0"),
    ],
)
def test_refused(arguments: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        recipe(*arguments, **options)


@pytest.mark.parametrize("name", recipes())
def test_each_recipe_quantises(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), nn.LayerNorm(4), nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 6)
    )
    images = torch.randn(4, 3, 8, 8)
    quantized = fxquant.quantize(model.eval(), [images], recipe=name)
    with torch.no_grad():
        difference = quantized(images) - model(images)
    assert 0 < difference.abs().max() < 0.2
    assert fxquant.report(quantized).coverage == 1.0
