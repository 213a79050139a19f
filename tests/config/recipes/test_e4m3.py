"""Recipes on float8 codes: which take them, what becomes of them, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fxquant
from fxquant import ConfigError, Float8, OutlierTokens, PerToken, TensorSpec
from fxquant.config.recipes.book import CODES
from tests.support.models import images, small_vit

TAKEN: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("default", "minmax", "ema", "percentile", "omse", "dynamic", "base_ptq", "adalog")},
    **{name: {} for name in ("vanilla", "gptq", "erq", "repq", "rotate", "glfq")},
    "ptq4vit": {"twin_gelu": False},
}
REFUSED = {
    "ptq4vit": r"TwinGELU \(gelu\) has no e4m3 form: use twin_gelu=False",
    "noisyquant": "a noisy bias makes up for even steps",
    "noisyquant_ptq4vit": "a noisy bias makes up for even steps",
    "fqvit": "this recipe rounds values between them: use another recipe, such as 'default' or 'minmax'",
    "itpn": "this recipe rounds values between them",
    "psaq": "this recipe rounds values between them",
    "vvtq": r"LearnedWeightStep \(weight\) has no e4m3 form",
}


def test_every_recipe_is_taken_or_refused() -> None:
    assert {*TAKEN, *REFUSED} == set(fxquant.recipes())


@pytest.mark.parametrize("name", TAKEN)
def test_all_that_was_quantised_is_e4m3(name: str) -> None:
    plain, config = (fxquant.recipe(name, codes=codes, **TAKEN[name]) for codes in CODES)
    layers = [config.layer, *(o.spec for o in config.overrides)]
    before = [plain.layer, *(o.spec for o in plain.overrides)]
    for layer, old in zip(layers, before, strict=True):
        assert layer is not None
        assert old is not None
        for role in ("weight", "activation", "norm", "gelu", "gated"):
            spec, replaced = getattr(layer, role), getattr(old, role)
            assert isinstance(spec, Float8 | None)
            if replaced is not None and spec is not None:
                assert (spec.granularity, spec.observer) == (replaced.granularity, replaced.observer)
        assert (layer.query, layer.key, layer.softmax, layer.value) == (None,) * 4
        assert (layer.search, layer.fit) == (old.search, old.fit)
    assert config.folds == plain.folds


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_made_for_even_steps_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[name]):
        fxquant.recipe(name, codes="e4m3")


def test_other_bits_are_refused_and_16_leave_activations_float() -> None:
    for bits in ((4, 8), (8, 6)):
        with pytest.raises(ConfigError, match=r"codes='e4m3' have 8 bits, got [46] \((weight|activation)\)"):
            fxquant.recipe("minmax", *bits, codes="e4m3")
    layer = fxquant.recipe("minmax", 8, 16, codes="e4m3").layer
    assert layer is not None
    assert isinstance(layer.weight, Float8)
    assert layer.activation is None
    with pytest.raises(ConfigError, match="option codes must be one of 'int', 'e4m3', got 'fp8'"):
        fxquant.recipe("minmax", codes="fp8")


def test_the_default_keeps_its_scales_per_token() -> None:
    layer = fxquant.recipe("default", codes="e4m3").layer
    assert layer is not None
    assert layer.norm == Float8(granularity=PerToken())
    assert layer.activation == Float8(granularity=OutlierTokens())
    assert isinstance(fxquant.recipe("default").layer.weight, TensorSpec)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["minmax", "default", "erq", "base_ptq"])
def test_models_run_on_float8(name: str) -> None:
    model, x = small_vit(depth=1), images()
    gm = fxquant.quantize(model, [x], name, progress=False, codes="e4m3", target="int8")
    records = {r.product: r for r in fxquant.report(gm)}
    attention, patches = records.pop("attention"), records.pop("patch_embed")
    assert all(r.float8 for r in records.values())
    assert patches.reason == "patch embedding is switched off in the config"
    assert attention.codes is None
    if name == "base_ptq":
        assert attention.reason == "products of two activations have no float8 form"
    with torch.no_grad():
        expected, found = model(x), gm(x)
    assert float((found - expected).norm() / expected.norm()) < 0.15
    assert str(fxquant.report(gm)).startswith("stage lowered: 5 of 7 products on float8, ")
    assert "multiply-accumulates on float8" in repr(gm)
