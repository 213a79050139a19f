"""Which specs a role may have, and which it uses where it has none."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fxquant import (
    ConfigError,
    IntegerNorm,
    LayerSpec,
    LogIntSoftmax,
    Metric,
    Noise,
    NoisyBias,
    OutlierTokens,
    PerChannel,
    PerHead,
    PerProjection,
    PerToken,
    Role,
    RowGroups,
    ScaleSearch,
    TensorSpec,
    TwinGELU,
    TwinSoftmax,
)

WEIGHT = TensorSpec(signed=True, symmetric=True, granularity=PerChannel(0))

LOST = "symmetric unsigned codes lose every negative value: use signed=True, or symmetric=False for a zero point"


@pytest.mark.parametrize(
    ("role", "spec", "message"),
    [
        ("weight", 8, "LayerSpec.weight must be a TensorSpec, Float8 or None, got 8"),
        ("weight", TensorSpec(granularity=PerHead()), "LayerSpec.weight: a weight has no heads"),
        ("weight", TensorSpec(symmetric=True), f"LayerSpec.weight: {LOST}"),
        ("activation", TensorSpec(symmetric=True), f"LayerSpec.activation: {LOST}"),
        ("query", TensorSpec(symmetric=True), f"LayerSpec.query: {LOST}"),
        *(
            (role.value, TwinGELU(), f"LayerSpec.{role.value} must be a TensorSpec")
            for role in Role
            if role != Role.GELU
        ),
        *((r.value, TwinSoftmax(), f"LayerSpec.{r.value} must be a TensorSpec") for r in Role if r != Role.SOFTMAX),
        (
            "softmax",
            TwinGELU(),
            "LayerSpec.softmax must be a TensorSpec, TwinSoftmax, AdaLogSoftmax, Log2 or None, got TwinGELU(bits=8",
        ),
        (
            "gelu",
            TwinSoftmax(),
            "LayerSpec.gelu must be a TensorSpec, TwinGELU, AdaLogGELU, Float8 or None, got TwinSoftmax(bits=8",
        ),
        ("gelu", 8, "LayerSpec.gelu must be a TensorSpec, TwinGELU, AdaLogGELU, Float8 or None, got 8"),
        (
            "activation",
            TensorSpec(granularity=RowGroups(3)),
            "LayerSpec.activation: RowGroups splits the rows of a weight",
        ),
        ("value", TensorSpec(granularity=RowGroups(3)), "LayerSpec.value: RowGroups splits the rows of a weight"),
        ("key", TensorSpec(granularity=PerProjection()), "LayerSpec.key: PerProjection splits the rows of a weight"),
        ("search", Metric.L2, "LayerSpec.search must be a ScaleSearch or None, got <Metric.L2"),
        ("search", ScaleSearch, "LayerSpec.search must be a ScaleSearch or None, got <class"),
        ("noise", Noise.UNIFORM, "LayerSpec.noise must be a NoisyBias or None, got <Noise.UNIFORM"),
        ("noise", True, "LayerSpec.noise must be a NoisyBias or None, got True"),
        (
            "activation",
            TensorSpec(granularity=PerChannel(0)),
            "LayerSpec.activation: axis 0 of an activation is the batch",
        ),
        (
            "weight",
            TensorSpec(signed=True, symmetric=True, granularity=PerToken()),
            "LayerSpec.weight: a weight has no tokens: PerToken is for the inputs of linear layers",
        ),
        (
            "value",
            TensorSpec(granularity=OutlierTokens()),
            "LayerSpec.value: operands of attention have no scale per token: OutlierTokens is for the inputs of linear layers",
        ),
        *(
            (
                role,
                TensorSpec(granularity=PerToken()),
                f"LayerSpec.{role}: operands of attention have no scale per token",
            )
            for role in ("query", "key", "softmax", "value")
        ),
        ("gelu", TensorSpec(granularity=PerHead()), "LayerSpec.gelu: only query, key, softmax and value have heads"),
    ],
)
def test_specs_that_a_role_cannot_have(role: str, spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        LayerSpec(**{role: spec})


@pytest.mark.parametrize("role", ["activation", "norm", "gelu"])
def test_a_noisy_bias_needs_one_scale(role: str) -> None:
    spec: Any = TensorSpec(granularity=PerChannel(-1))
    LayerSpec(**{role: spec})
    with pytest.raises(ConfigError, match=re.escape(f"LayerSpec.{role}: a noisy bias needs one scale, PerTensor, got")):
        LayerSpec(**{role: spec}, noise=NoisyBias())


def test_a_role_without_a_spec_is_an_activation() -> None:
    layer = LayerSpec(activation=TensorSpec(6), softmax=TensorSpec(4, symmetric=True), key=None)
    assert {role: layer.spec_for(role) for role in Role} == {
        **dict.fromkeys(Role, TensorSpec(6)),
        Role.WEIGHT: WEIGHT,
        Role.SOFTMAX: TensorSpec(4, symmetric=True),
    }
    assert LayerSpec(weight=None).spec_for(Role.WEIGHT) is None
    assert LayerSpec(activation=None).spec_for(Role.NORM) is None


def test_probabilities_and_gelu_may_lose_what_they_have_not() -> None:
    unsigned = TensorSpec(symmetric=True)
    assert LayerSpec(softmax=unsigned, gelu=unsigned).softmax == unsigned


def test_an_integer_softmax_is_for_a_placement_alone() -> None:
    with pytest.raises(
        ConfigError, match=r"must be a TensorSpec, TwinSoftmax, AdaLogSoftmax, Log2 or None, got LogIntSoftmax"
    ):
        LayerSpec(softmax=LogIntSoftmax())


@pytest.mark.parametrize("role", Role)
def test_an_integer_norm_is_for_a_placement_alone(role: Role) -> None:
    spec: Any = IntegerNorm(signed=True, symmetric=True)
    with pytest.raises(ConfigError, match=rf"LayerSpec\.{role.value} must be a TensorSpec.* or None, got IntegerNorm"):
        LayerSpec(**{role.value: spec})


def test_a_noisy_bias_leaves_attention_its_scales() -> None:
    heads = TensorSpec(signed=True, symmetric=True, granularity=PerHead())
    assert LayerSpec(query=heads, key=heads, noise=NoisyBias()).query == heads
