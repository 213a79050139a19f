"""The default recipe: what each effort asks for, and that `fxquant.quantize` does it."""

from __future__ import annotations

from typing import Any

import pytest

import fxquant
from fxquant import ConfigError, OutlierTokens, PerToken, Role, TensorSpec, api
from tests.support.models import images, small_vit

INPUTS = (Role.NORM, Role.GELU, Role.ACTIVATION, Role.GATED)


@pytest.mark.parametrize(
    ("effort", "bits", "fitted", "iterations"),
    [("fast", 4, False, 0), ("better", 4, True, 0), ("best", 4, True, 100), ("best", 8, True, 0)],
)
def test_what_an_effort_asks_for(effort: str, bits: int, fitted: bool, iterations: int) -> None:
    config = fxquant.recipe("default", bits, bits, effort=effort)
    assert config.layer is not None
    assert (config.layer.fit is not None) == fitted
    assert config.reconstruction == iterations


def test_at_8_bits_only_outlier_tokens_decide_where_scales_per_token_cost_time() -> None:
    eight, six = (fxquant.recipe("default", 8, bits).layer for bits in (8, 6))
    assert eight is not None
    assert six is not None
    tokens = {role: eight.spec_for(role).granularity for role in INPUTS}  # type: ignore[union-attr]
    outliers = OutlierTokens(3.0)
    assert tokens == {Role.NORM: PerToken(), Role.GELU: PerToken(), Role.ACTIVATION: outliers, Role.GATED: outliers}
    assert {six.spec_for(role) for role in INPUTS} == {TensorSpec(6, granularity=PerToken())}
    assert eight.query == TensorSpec(8)


def test_the_best_effort_reconstructs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def reconstruct(prepared: Any, batches: Any, progress: bool, *, seed: int, iterations: int) -> None:
        assert len(batches) == 2
        asked.append(iterations)

    monkeypatch.setattr(api, "reconstruct", reconstruct)
    batches = (images(2, seed=seed) for seed in range(2))
    fxquant.quantize(small_vit(), batches, w_bits=4, a_bits=4, effort="best", progress=False)
    assert asked == [100]


def test_an_effort_is_known_and_belongs_to_the_default() -> None:
    with pytest.raises(ConfigError, match="one of 'fast', 'better', 'best', got 'all'"):
        fxquant.recipe("default", effort="all")
    with pytest.raises(ConfigError, match="'minmax' does not take these options"):
        fxquant.quantize(small_vit(), [images(2)], "minmax", effort="fast")
