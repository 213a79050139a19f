"""Recipes of fitted weights: their constants and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fxquant
from fxquant import ConfigError, Correction, Inputs, PerChannel, Rounding, TensorSpec, WeightFit, recipe
from fxquant.config.folds import Folds, Reparameterize
from fxquant.config.recipes.fitted import PENALTIES
from tests.support.models import images, small_vit


def fit_of(name: str, **options: Any) -> WeightFit:
    layer = recipe(name, 4, 6, **options).layer
    assert layer is not None
    assert layer.weight == TensorSpec(4, signed=True, symmetric=True, granularity=PerChannel(0))
    assert layer.activation == TensorSpec(6)
    assert layer.fit is not None
    return layer.fit


def test_their_constants() -> None:
    assert fit_of("gptq") == WeightFit(Rounding.GPTQ, clip=True)
    assert fit_of("erq") == WeightFit(Rounding.ERQ, ridge=PENALTIES)


def test_their_published_constants() -> None:
    assert fit_of("gptq", published=True) == WeightFit(damping=0.1, asymmetry=0.25, clip=True, correction=None)
    published = WeightFit(Rounding.ERQ, damping=0.3, ridge=(0.3,), inputs_from=Inputs.FLOAT)
    assert fit_of("erq", published=True) == published
    assert fit_of("erq", published=True, ridge=0.2).ridge == (0.2,)


def test_erq_brings_channels_of_norms_to_one_range_first() -> None:
    assert recipe("erq").folds == Folds(norms=Reparameterize(strict=False))
    assert recipe("gptq").folds is None


def test_options() -> None:
    found = fit_of(
        "gptq", ridge="held_out", correction="affine", inputs_from="float", asymmetry=0.5, block=32, clip=False
    )
    assert found == WeightFit(
        asymmetry=0.5, block=32, ridge=PENALTIES, correction=Correction.AFFINE, inputs_from=Inputs.FLOAT
    )
    assert fit_of("erq", ridge=None).ridge == ()
    assert fit_of("gptq", ridge=(0.1, 1)).ridge == (0.1, 1)
    assert fit_of("gptq", correction=None).correction is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": "best"}, "option ridge must be a number, several in a tuple, 'held_out' or None, got 'best'"),
        ({"ridge": True}, "WeightFit.ridge must be a tuple of finite numbers above 0"),
        ({"correction": "mean"}, "expected one of 'bias', 'affine' or a member of Correction, got 'mean'"),
        ({"rounding": Rounding.ERQ}, "does not take these options"),
        ({"steps": 3}, "does not take these options"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe("gptq", **options)


@pytest.mark.parametrize("name", ["gptq", "erq"])
def test_they_are_better_on_what_they_saw_than_rounding_to_nearest(name: str) -> None:
    torch.manual_seed(0)
    model, x = small_vit(depth=1), images(8)
    errors = []
    with torch.no_grad():
        for each in (name, "minmax"):
            quantized = fxquant.quantize(model, [x], each, 4, 8, target="fake", progress=False)
            errors.append(float((quantized(x) - model(x)).norm()))
    assert errors[0] < 0.8 * errors[1]
