"""Kinds of values are found from what computes and reads them; `tests.config.test_placement` has whole models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant import QuantConfig, TensorSpec
from fxquant.config.operands import Value
from fxquant.config.placement import Placement
from fxquant.graph.values import find_values
from fxquant.passes.annotate import Annotate
from fxquant.passes.canonicalize import canonicalize
from fxquant.passes.decompose_attention import decompose_attention
from fxquant.passes.fold_constants import fold_constants
from fxquant.passes.linearize_matmul import linearize_matmul
from tests.support.check_pass import module_of, through
from tests.support.models import small_swin, small_vit

C = 8
WEIGHT, OTHER, CONSTANT = torch.randn(C, C), torch.randn(C, C), torch.randn(1, 4, C)


def kinds(function: Callable[..., Tensor], **tensors: Tensor) -> list[str]:
    """Return the kinds of values of a small graph, in order, without the image that it begins with."""
    gm = through(
        module_of(function, **tensors), canonicalize, fold_constants, linearize_matmul, Annotate(QuantConfig())
    )
    return [value.value for _, value in find_values(gm) if value is not Value.IMAGE]


def _quick(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _written(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3))))


def _rms(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize("build", [small_vit, small_swin])
def test_every_place_is_found_once_in_the_order_of_the_graph(build: Callable[[], nn.Module]) -> None:
    config = QuantConfig(placement=Placement(scores=TensorSpec()))
    gm = through(build(), canonicalize, fold_constants, linearize_matmul, Annotate(config), decompose_attention)
    places = [node for node, _ in find_values(gm)]
    assert len(set(places)) == len(places)
    order = {node: index for index, node in enumerate(gm.graph.nodes)}
    # A score bias is read before its sum is computed, what selects tokens of a norm stands behind it.
    computed = [order[node] for node, value in find_values(gm) if value not in (Value.SCORE_BIAS, Value.POSITION)]
    assert computed == sorted(computed)
    assert next(find_values(gm)) == (next(iter(gm.graph.nodes)), Value.IMAGE)


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda self, x: F.linear(x, self.a) + x, ["linear", "residual"]),
        (lambda self, x: F.linear(x + self.c, self.a) + x, ["position", "embedding", "linear", "residual"]),
        (lambda self, x: F.linear(x, self.a) + 1, ["linear"]),
        (lambda self, x: F.linear(x, self.a).reshape(x.shape[0] + x.shape[1], -1), []),  # read by GELU
    ],
    ids=["of two values", "with a constant", "with a number", "of sizes"],
)
def test_sums_are_of_two_values_and_no_numbers(function: Callable[..., Tensor], found: list[str]) -> None:
    def model(self: nn.Module, x: Tensor) -> Tensor:
        return F.linear(F.gelu(function(self, x)), self.b)  # type: ignore[arg-type]

    assert kinds(model, a=WEIGHT, b=OTHER, c=CONSTANT) == [*found, "gelu", "logits"]


@pytest.mark.parametrize(("constant", "found"), [(True, ["concat", "gelu"]), (False, ["gelu"])])
def test_only_tokens_with_a_constant_are_the_concatenation(constant: bool, found: list[str]) -> None:
    def join(self: nn.Module, x: Tensor) -> Tensor:
        return F.gelu(torch.cat([self.c if constant else x, x], dim=1))  # type: ignore[list-item]

    assert kinds(join, c=CONSTANT) == found


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda self, x: F.gelu(F.linear(x, self.a)), ["gelu"]),  # which is rounded in the layer's place
        (lambda self, x: _quick(F.linear(x, self.a)), ["gelu"]),
        (lambda self, x: _written(F.linear(x, self.a)), ["gelu"]),  # whose sum is no residual
        (lambda self, x: F.silu(F.linear(x, self.a)) * F.linear(x, self.b), ["gelu", "linear", "gated"]),
        (lambda self, x: F.relu(F.linear(x, self.a)), ["linear"]),
        (lambda self, x: _rms(F.linear(x, self.a)), ["linear", "norm"]),  # whose mean is not pooled
        (lambda self, x: F.layer_norm(F.linear(x, self.a), (C,)), ["merged", "norm"]),
        (lambda self, x: F.layer_norm(F.linear(x, self.a)[0], (C,)), ["linear", "norm"]),  # a part of it alone
    ],
    ids=["gelu", "quick gelu", "gelu in words", "swiglu", "relu", "rms norm", "norm", "norm of a part"],
)
def test_what_reads_a_linear_layer_decides_what_its_result_is(
    function: Callable[..., Tensor], found: list[str]
) -> None:
    def model(self: nn.Module, x: Tensor) -> Tensor:
        return F.linear(function(self, x), self.b)  # type: ignore[arg-type]

    assert kinds(model, a=WEIGHT, b=OTHER) == [*found, "logits"]


@pytest.mark.parametrize(("axis", "found"), [(-1, ["probabilities"]), (2, ["probabilities"]), (1, [])])
def test_a_softmax_of_attention_is_over_the_last_axis(axis: int, found: list[str]) -> None:
    def attend(self: nn.Module, x: Tensor) -> Tensor:
        return F.softmax(x, dim=axis)

    gm = through(module_of(attend), canonicalize)
    next(n for n in gm.graph.nodes if n.target is F.softmax).meta["val"] = torch.empty(2, 4, C)
    assert [value.value for _, value in find_values(gm)] == ["image", *found]
