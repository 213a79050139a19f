"""What products and their operands are for, and that models with each kind are quantised."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant import LayerSpec, QuantConfig, TensorSpec, TwinGELU, TwinSoftmax
from fxquant.config.operands import Role
from fxquant.graph.meta import Product, record_of
from fxquant.graph.products import fitted, operand_role, product_of
from tests.graph.test_activation_functions import SILU, result
from tests.graph.test_dataflow import products
from tests.support.models import images, small_vit
from tests.support.tiers import keep_quick


@pytest.mark.parametrize(
    ("function", "role"),
    [
        (lambda self, x: F.softmax(x, -1), Role.SOFTMAX),
        (lambda self, x: F.softmax(x, -1) - 0.5 * F.softmax(x @ x, -1), Role.ACTIVATION),
        (lambda self, x: F.rms_norm(x, (4,)), Role.NORM),
        (lambda self, x: x * torch.sigmoid(1.702 * x), Role.GELU),
        (lambda self, x: F.silu(x @ self.w) * (x @ self.w), Role.GATED),
        (lambda self, x: F.layer_norm(F.silu(x @ self.w) * x, (4,)), Role.NORM),
        (lambda self, x: x.relu(), Role.ACTIVATION),
    ],
)
def test_roles(function: Any, role: Role) -> None:
    assert operand_role(result(function)) is role


def _differential(self: Any, x: Tensor) -> Tensor:
    probabilities = F.softmax((x @ x.mT) * 0.5, -1).view(2, 2, 4)
    return (probabilities[0] - self.w[0, 0] * probabilities[1]) @ x


def test_a_difference_of_probabilities_is_mixed_with_values_as_they_are() -> None:
    assert [product_of(n) for n in products(_differential)] == [Product.QK, Product.PV]


def test_probabilities_mixed_with_anything_else_are_another_product() -> None:
    found = products(lambda self, x: (F.softmax(x @ x.mT, -1) - x) @ x)
    assert [product_of(n) for n in found] == [Product.QK, Product.MATMUL]


def test_a_twin_has_the_least_value_of_the_function_that_it_quantises() -> None:
    silu, relu = result(lambda self, x: F.silu(x)), result(lambda self, x: x.relu())
    found = fitted(TwinGELU(6), silu)
    assert isinstance(found, TwinGELU)
    assert found.minimum == pytest.approx(SILU, rel=1e-4)
    assert found.bits == 6
    assert fitted(TwinGELU(6), relu) == TwinGELU(6)
    assert fitted(TensorSpec(), silu) == TensorSpec()


class Block(nn.Module):
    """Attention and an MLP over 16 patches of width 32."""

    def __init__(self, mlp: nn.Module, rotate: nn.Module | None = None, difference: bool = False) -> None:
        super().__init__()
        self.embed, self.qkv, self.head = nn.Conv2d(3, 32, 8, 8), nn.Linear(32, 96), nn.Linear(32, 10)
        self.mlp, self.rotate, self.difference = mlp, rotate or nn.Identity(), difference

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).mT
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4).unbind(0)
        probabilities = F.softmax(self.rotate(q) @ self.rotate(k).mT * 0.25, -1)
        if self.difference:
            probabilities = probabilities[:, :1] - 0.6 * probabilities[:, 1:]
        x = x + (probabilities @ v).transpose(1, 2).flatten(2)
        return self.head((x + self.mlp(F.layer_norm(x, (32,)))).mean(1))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """An activation function between two layers, or a gated product where there are two of the first."""

    def __init__(self, function: Callable[[Tensor], Tensor], gated: bool = False) -> None:
        super().__init__()
        self.function, self.gate = function, nn.Linear(32, 64)
        self.up, self.down = nn.Linear(32, 64) if gated else None, nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(self.gate(x))
        return self.down(y if self.up is None else y * self.up(x))  # type: ignore[no-any-return]


class Rotate(nn.Module):
    """Turn pairs by their position: phases from a range of numbers, computed at run time."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.frequencies = nn.Buffer(100 ** (-torch.arange(8) / 8))

    def forward(self, x: Tensor) -> Tensor:
        phases = torch.arange(16.0)[:, None] @ self.frequencies[None]
        cos, sin = phases.cos(), phases.sin()
        if self.form == "complex":
            turned = torch.view_as_complex(x.reshape(*x.shape[:-1], 8, 2)) * torch.complex(cos, sin)
            return torch.view_as_real(turned).flatten(-2)
        if self.form == "pairs":
            a, b = x[..., ::2], x[..., 1::2]
            return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
        a, b = x.chunk(2, -1)
        return x * torch.cat([cos, cos], -1) + torch.cat([-b, a], -1) * torch.cat([sin, sin], -1)


def _quick(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _written(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


KINDS: dict[str, Callable[[], nn.Module]] = {
    "quick": lambda: Block(Mlp(_quick)),
    "written": lambda: Block(Mlp(_written)),
    "swiglu": lambda: Block(Mlp(F.silu, gated=True)),
    "difference": lambda: Block(Mlp(F.gelu), difference=True),
    **{form: lambda form=form: Block(Mlp(F.gelu), Rotate(form)) for form in ("complex", "pairs", "halves")},  # type: ignore[misc]
}
ROLES = {"quick": Role.GELU, "written": Role.GELU, "swiglu": Role.GATED}
each_kind = pytest.mark.parametrize("kind", KINDS)


def model_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return KINDS[kind]().eval()


def distance(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).norm() / expected.norm()).detach())


def check_recipe(model: nn.Module, recipe: str) -> None:
    """Quantise `model` by the `recipe`, simulated and on integers."""
    x = images(4)
    gm = fxquant.trace(model, (x,))
    options: dict[str, Any] = {"max_rows": 64} if "ptq" in recipe else {}
    with torch.no_grad():
        prepared = fxquant.prepare(gm, fxquant.recipe(recipe, **options), example_inputs=(x,))
        fxquant.calibrate(prepared, [x], progress=False)
        fake, int8 = fxquant.convert(prepared, "fake"), fxquant.convert(prepared)
        assert distance(fake(x), model(x)) < 0.1
        assert distance(int8(x), fake(x)) < 0.03  # a code here and there


RECIPES = ("minmax", "ptq4vit", "fqvit")


@pytest.mark.parametrize(
    ("kind", "recipe"),
    keep_quick(product(KINDS, RECIPES), *zip(KINDS, 2 * RECIPES + RECIPES[:1], strict=True)),  # each kind, each recipe
)
def test_every_kind_is_quantised(kind: str, recipe: str) -> None:
    check_recipe(model_of(kind), recipe)


@each_kind
def test_what_is_found_in_every_kind(kind: str) -> None:
    gm = fxquant.prepare(model_of(kind), fxquant.recipe("ptq4vit"), example_inputs=(images(4),))
    found = {r.label.rpartition(".")[2]: r for r in map(record_of, gm.graph.nodes) if r is not None}
    assert found["down"].operands[0].role is ROLES.get(kind, Role.GELU)
    assert [o.role for o in found["qk"].operands] == [Role.QUERY, Role.KEY]
    probabilities, value = found["pv"].operands
    assert value.role is Role.VALUE
    assert isinstance(probabilities.spec, TensorSpec if kind == "difference" else TwinSoftmax)
    assert all(record.reason is None for record in found.values())


@pytest.mark.parametrize("form", ["complex", "pairs", "halves"])
def test_turned_queries_and_keys_are_two_of_three_projections(form: str) -> None:
    config = fxquant.recipe("ptq4vit", published=True)
    gm = fxquant.prepare(model_of(form), config, example_inputs=(images(4),))
    (spec,) = [r.operands[1].spec for r in map(record_of, gm.graph.nodes) if r is not None and r.label == "qkv"]
    assert spec is not None
    assert str(spec.granularity) == "RowGroups(groups=3)"


class Fourier(nn.Module):
    """Random Fourier features of coordinates that are an input (SAM)."""

    def __init__(self) -> None:
        super().__init__()
        self.frequencies, self.layer = nn.Buffer(torch.randn(2, 16) * 4), nn.Linear(32, 8)

    def forward(self, points: Tensor) -> Tensor:
        phases = 2 * math.pi * ((2 * points - 1) @ self.frequencies)
        return self.layer(torch.cat([phases.sin(), phases.cos()], -1))  # type: ignore[no-any-return]


def test_phases_stay_float_and_the_report_says_so() -> None:
    torch.manual_seed(0)
    model, x = Fourier().eval(), torch.rand(4, 9, 2)
    int8 = fxquant.quantize(model, [x])
    phases, layer = fxquant.report(int8)
    assert (phases.int8, phases.requested, phases.reason) == (False, False, "computes phases of sine and cosine")
    assert layer.int8
    assert distance(int8(x), model(x)) < 0.02
    prepared = fxquant.prepare(model, fxquant.recipe("minmax"), example_inputs=(x,))
    fxquant.calibrate(prepared, [x], progress=False)
    fxquant.convert(prepared, strict=True)  # nothing that was asked for stays float


def test_gated_operands_have_a_spec_of_their_own() -> None:
    config = QuantConfig(LayerSpec(gated=TensorSpec(4, signed=True)))
    gm = fxquant.prepare(model_of("swiglu"), config, example_inputs=(images(4),))
    found = {r.label: r.operands[0].spec for r in map(record_of, gm.graph.nodes) if r is not None}
    assert found["mlp.down"] == TensorSpec(4, signed=True)
    assert found["mlp.gate"] == found["mlp.up"] == TensorSpec()


class Pooled(nn.Module):
    """Tokens of a ViT, pooled by a query that is zero: attention is uniform."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.query = small_vit(num_classes=0, global_pool=""), nn.Parameter(torch.zeros(1, 1, 32))
        self.key, self.value, self.head = (nn.Linear(32, n) for n in (32, 32, 10))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.vit(x)
        query = self.query.expand(tokens.shape[0], -1, -1).unflatten(-1, (2, 16)).transpose(1, 2)
        key, value = (f(tokens).unflatten(-1, (2, 16)).transpose(1, 2) for f in (self.key, self.value))
        return self.head(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "recipe", keep_quick(["minmax", "base_ptq", "noisyquant_ptq4vit", "itpn", "psaq"], "base_ptq", "itpn", "psaq")
)
def test_uniform_attention_is_quantised(recipe: str) -> None:
    torch.manual_seed(0)
    check_recipe(Pooled().eval(), recipe)


@pytest.mark.parametrize(
    ("name", "options", "role"),
    [
        ("eva02_tiny_patch14_224", {}, Role.GATED),
        ("vit_base_patch32_clip_quickgelu_224", {}, Role.GELU),
        ("vit_small_plus_patch16_dinov3", {}, Role.GATED),
        ("vit_base_patch16_224", {"attn_layer": "diff"}, Role.GELU),
    ],
)
def test_models_of_timm(name: str, options: dict[str, Any], role: Role) -> None:
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 48, "num_heads": 2, "num_classes": 10}
    model, x = timm.create_model(name, **sizes, **options).eval(), images(4)
    prepared = fxquant.prepare(model, fxquant.recipe("minmax"), example_inputs=(x,))
    found = {r.label: r.operands[0].role for r in map(record_of, prepared.graph.nodes) if r is not None}
    assert found["blocks.0.mlp.fc2"] is role
    int8 = fxquant.convert(fxquant.calibrate(prepared, [x], progress=False), strict=True)
    assert distance(int8(x), model(x)) < 0.1
