"""Config: frozen values, refused nonsense, overrides as torch.ao has them, and every combination converts."""

from __future__ import annotations

import operator
import re
from dataclasses import FrozenInstanceError, fields
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import (
    ConfigError,
    LayerSpec,
    MinMax,
    PerChannel,
    PerHead,
    PerProjection,
    PerTensor,
    QuantConfig,
    Role,
    RowGroups,
    TensorSpec,
    TwinGELU,
    TwinSoftmax,
)
from fxquant.config.overrides import Scope
from fxquant.numerics.granularity import Granularity
from tests.support.tiers import keep_quick

WEIGHT = TensorSpec(signed=True, symmetric=True, granularity=PerChannel(0))
SIGNED = TensorSpec(signed=True, symmetric=True)
UNTYPED: Any = fxquant  # for what a type checker would refuse
FOUR, SIX = (LayerSpec(TensorSpec(b, signed=True, symmetric=True), TensorSpec(b)) for b in (4, 6))


@pytest.mark.parametrize(
    "value",
    [
        *(PerTensor(), PerChannel(1), PerHead(), RowGroups(3)),
        *(TensorSpec(), TwinGELU(), TwinSoftmax(4, False, True), LayerSpec(), QuantConfig(), PerProjection()),
    ],
)
def test_values_are_frozen_equal_and_hashable(value: Any) -> None:
    name = next((f.name for f in fields(value)), "anything")
    with pytest.raises((FrozenInstanceError, TypeError)):
        setattr(value, name, 1)
    assert value == eval(repr(value), vars(fxquant) | {"Role": Role})
    assert len({value, eval(repr(value), vars(fxquant))}) == 1


def test_defaults_are_w8a8() -> None:
    layer = QuantConfig().layer
    assert layer == LayerSpec(weight=WEIGHT, activation=TensorSpec(8, signed=False, symmetric=False, observer=MinMax()))
    assert (QuantConfig().patch_embed, QuantConfig().head, QuantConfig().attention) == (True, True, False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UNTYPED.QuantConfig(TensorSpec()), "QuantConfig.layer must be a LayerSpec or None"),
        (lambda: UNTYPED.QuantConfig(head="no"), "QuantConfig.head must be True or False, got 'no'"),
        (lambda: UNTYPED.QuantConfig(attention=1), "QuantConfig.attention must be True or False, got 1"),
        (lambda: UNTYPED.QuantConfig().set_global(8), "QuantConfig.layer must be a LayerSpec or None, got 8"),
        (
            lambda: UNTYPED.QuantConfig().set_module_name("head", TensorSpec()),
            "expected a LayerSpec or None (leave float), got",
        ),
        (
            lambda: UNTYPED.QuantConfig().set_module_name("", FOUR),
            "set_module_name expects a name such as 'blocks.0.attn.qkv', got ''",
        ),
        (lambda: UNTYPED.QuantConfig().set_module_name(nn.Linear, FOUR), "set_module_name expects a name"),
        (lambda: UNTYPED.QuantConfig().set_module_name_regex(3, FOUR), "set_module_name_regex expects a name"),
        (lambda: UNTYPED.QuantConfig().set_module_name_regex("(", FOUR), "'(' is not a regular expression"),
        (lambda: UNTYPED.QuantConfig().set_object_type([], FOUR), "[] is not a matrix product fxquant quantises"),
        (
            lambda: UNTYPED.QuantConfig().set_object_type(nn.LayerNorm, FOUR),
            "is not a matrix product fxquant quantises; expected one of: attention, conv2d, linear, matmul",
        ),
    ],
)
def test_impossible_configs(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


def test_setters_return_a_new_config() -> None:
    config = QuantConfig()
    assert config.set_global(FOUR) == QuantConfig(FOUR)
    assert config.set_global(None).layer is None
    config.set_module_name("head", None)
    assert config == QuantConfig()


@pytest.mark.parametrize(
    ("spellings", "name"),
    [
        ((nn.Linear, F.linear, "linear"), "linear"),
        ((nn.Conv2d, F.conv2d, torch.conv2d, "conv2d"), "conv2d"),
        ((torch.matmul, operator.matmul, torch.bmm, "matmul", "bmm"), "matmul"),
        ((F.scaled_dot_product_attention, "attention"), "attention"),
    ],
)
def test_all_spellings_of_an_operator_are_one(spellings: tuple[Any, ...], name: str) -> None:
    expected = QuantConfig().set_object_type(name, FOUR)
    assert all(QuantConfig().set_object_type(s, FOUR) == expected for s in spellings)


def test_names_beat_expressions_beat_operators() -> None:
    config = QuantConfig().set_object_type("linear", None)
    config = config.set_module_name_regex(r"blocks\.\d", SIX).set_module_name("blocks.1", FOUR)

    def scope(operator: str, module: str) -> Scope | None:
        override = config.override_for(operator, module)
        return override.scope if override else None

    assert scope("linear", "blocks.1.fc") is Scope.MODULE_NAME
    assert scope("linear", "blocks.0.fc") is Scope.MODULE_NAME_REGEX
    assert scope("linear", "blocks.10.fc") is Scope.MODULE_NAME_REGEX
    assert scope("linear", "head") is Scope.OBJECT_TYPE
    assert scope("conv2d", "stem") is None


def test_the_longest_name_and_the_first_expression_decide() -> None:
    config = QuantConfig().set_module_name("a.b", FOUR).set_module_name("a", SIX).set_module_name("a.b.c", None)
    assert [_spec(config, name) for name in ("a.b.x", "a.x", "a.b.c", "a.b")] == [FOUR, SIX, None, FOUR]
    config = QuantConfig().set_module_name_regex("a.*", FOUR).set_module_name_regex(r"a\.b", SIX)
    assert _spec(config, "a.b") == FOUR
    # Setting an expression again keeps its place, as in a QConfigMapping.
    assert _spec(config.set_module_name_regex("a.*", SIX), "a.c") == SIX
    assert config.set_module_name_regex("a.*", SIX).overrides[0].key == "a.*"
    # An expression matches from the start, not anywhere.
    assert QuantConfig().set_module_name_regex("b", SIX).override_for("linear", "a.b") is None


def test_what_an_override_names() -> None:
    def names(config: QuantConfig, operator: str = "attention", module: str = "blocks.0.attn") -> bool:
        return config.overrides[0].names(operator, module)

    assert names(QuantConfig().set_module_name("blocks.0.attn", FOUR))
    assert not names(QuantConfig().set_module_name("blocks.0", FOUR))
    assert all(
        names(QuantConfig().set_module_name_regex(r, FOUR)) for r in (".*attn", ".*attn.*", r"blocks\.\d+\.attn$")
    )
    assert not any(
        names(QuantConfig().set_module_name_regex(r, FOUR)) for r in (".*", "blocks", r"blocks\..*", ".*qkv")
    )
    assert names(QuantConfig().set_object_type("attention", FOUR))
    assert not names(QuantConfig().set_object_type("matmul", FOUR))


def _spec(config: QuantConfig, module: str) -> LayerSpec | None:
    override = config.override_for("linear", module)
    assert override is not None
    return override.spec


def converted(model: nn.Module, config: QuantConfig, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the outputs of the float, the simulated and the int8 model."""
    prepared = fxquant.calibrate(fxquant.prepare(model.eval(), config), [x], progress=False)
    with torch.no_grad():
        return model(x), fxquant.convert(prepared, target="fake")(x), fxquant.convert(prepared)(x)


COMBINATIONS = list(
    product(
        range(2, 9),
        [True, False],
        [PerTensor(), PerChannel(0), RowGroups(3), PerChannel(1)],
        [PerTensor(), PerChannel(-1)],
    )
)


# Three have no factor with the numbers of values: every third one has each pair of values among them.
@pytest.mark.parametrize(
    ("bits", "symmetric", "rows", "channels"), keep_quick(COMBINATIONS, *COMBINATIONS[::3]), ids=repr
)
def test_every_combination_converts(bits: int, symmetric: bool, rows: Granularity, channels: Granularity) -> None:
    torch.manual_seed(bits)
    weight = TensorSpec(bits, signed=symmetric, symmetric=symmetric, granularity=rows)
    activation = TensorSpec(10 - bits, signed=symmetric, symmetric=symmetric, granularity=channels)
    y, fake, int8 = converted(
        nn.Linear(10, 12), QuantConfig(LayerSpec(weight, activation)), torch.randn(3, 7, 10) + 0.3
    )
    torch.testing.assert_close(int8, fake, rtol=1e-5, atol=1e-5)
    assert not torch.equal(fake, y)
    # Each of the ten terms of a product is off by at most half a step of each factor.
    x_step, w_step = 8 / (2 ** (10 - bits) - 1), 0.64 / (2**bits - 1)
    assert (fake - y).abs().max() < 10 * (0.32 * x_step / 2 + 4 * w_step / 2 + x_step * w_step / 4)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_patch_embedding(bits: int, signed: bool, symmetric: bool) -> None:
    weight = TensorSpec(bits, signed=True, symmetric=symmetric, granularity=PerChannel(0))
    activation = TensorSpec(bits, signed=signed or symmetric, symmetric=symmetric)
    _, fake, int8 = converted(nn.Conv2d(3, 5, 4, 4), QuantConfig(LayerSpec(weight, activation)), torch.rand(2, 3, 8, 8))
    torch.testing.assert_close(int8, fake, rtol=1e-5, atol=1e-5)


class Attention(nn.Module):
    """Attention without weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend (B, H, N, D) to itself."""
        return F.scaled_dot_product_attention(x, x + 1, x * 2)


@pytest.mark.parametrize("bits", keep_quick(range(2, 9), 2, 5, 8))
@pytest.mark.parametrize("granularity", [PerTensor(), PerHead(), PerChannel(-1)], ids=repr)
def test_attention(bits: int, granularity: Granularity) -> None:
    operand = TensorSpec(bits, signed=True, symmetric=True, granularity=granularity)
    probs = TensorSpec(bits, symmetric=True, granularity=granularity)
    layer = LayerSpec(query=operand, key=operand, softmax=probs, value=operand)
    y, fake, int8 = converted(Attention(), QuantConfig(layer, attention=True), torch.randn(2, 3, 6, 4))
    torch.testing.assert_close(int8, fake)
    assert 0 < (fake - y).abs().max() < 32 / 2**bits
