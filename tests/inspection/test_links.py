"""Nodes of two stages are linked where they give the same values, whatever they are called and fused with."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import pipeline
from fxquant.graph.stages import Stage
from fxquant.inspection.links import links
from fxquant.kernels import cpu
from tests.support.models import images, small_vit
from tests.support.tiers import keep_quick


@pytest.fixture(scope="module")
def traced() -> fx.GraphModule:
    return fxquant.trace(small_vit(), images())


def linked(traced: fx.GraphModule, other: fx.GraphModule) -> dict[str, str]:
    return {known.name: node.name for node, known in links(traced.graph, other.graph).items()}


def quantized(traced: fx.GraphModule, recipe: str = "minmax", target: str = "int8") -> fx.GraphModule:
    prepared = fxquant.prepare(traced, fxquant.recipe(recipe))
    fxquant.calibrate(prepared, [images()], progress=False)
    return fxquant.convert(prepared, target)  # type: ignore[arg-type]


def test_what_is_fused_gives_the_result_of_the_last_operator_in_it(traced: fx.GraphModule) -> None:
    found = linked(traced, quantized(traced))
    assert found["conv2d"] == "permute_2", "a convolution ends where its rows are an image again"
    assert found["layer_norm"] == "layer_norm_quantize"
    assert found["linear"] == "int8_linear"
    assert found["scaled_dot_product_attention"] == "attention_quantize"
    assert found["add_1"] == "int8_linear_add"
    assert found["gelu"] == "int8_linear_gelu_quantize"
    assert not {"linear_1", "linear_2"} & found.keys(), "nothing gives what stands before the residual and before GELU"


@pytest.mark.parametrize(
    ("recipe", "target"),
    keep_quick([("minmax", "fake"), ("dynamic", "int8"), ("dynamic", "fake")], ("minmax", "fake"), ("dynamic", "fake")),
)
def test_simulated_graphs_and_scales_per_token_are_linked(traced: fx.GraphModule, recipe: str, target: str) -> None:
    found = linked(traced, quantized(traced, recipe, target))
    assert {"conv2d", "layer_norm", "linear", "scaled_dot_product_attention", "add_1", "gelu", "add_2"} <= found.keys()


@pytest.mark.skipif(not cpu.is_available(), reason="needs the C++ kernels")
@pytest.mark.parametrize("recipe", keep_quick(["minmax", "dynamic"], "dynamic"))
def test_packed_kernels_are_linked_as_what_they_compute(traced: fx.GraphModule, recipe: str) -> None:
    gm = quantized(traced, recipe)
    packed = pipeline.run(copy.deepcopy(gm), pipeline.compile_for_cpu(frozenset(), own=True), Stage.LOWERED)
    lost = linked(traced, gm).keys() - linked(traced, packed).keys()
    assert lost <= {"linear_2", "linear_6"}, "first layers of an MLP, which GELU joins"


def test_several_of_a_kind_are_linked_in_order_and_not_at_all_where_one_is_missing() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.exp(x) + torch.exp(y)

    class Once(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.exp(x) + y

    two, again, one = (fx.symbolic_trace(m()) for m in (Twice, Twice, Once))
    names = [(node.name, known.name) for node, known in links(two.graph, again.graph).items()]
    assert names == [("exp", "exp"), ("exp_1", "exp_1"), ("add", "add")]
    assert [node.name for node in links(two.graph, one.graph)] == ["add"]
