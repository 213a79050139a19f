"""Roles are found from the data flow, in both directions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant.graph import dataflow
from fxquant.graph.meta import module_path
from fxquant.passes.canonicalize import canonicalize
from tests.support.check_pass import module_of, through
from tests.support.models import small_swin, small_vit

WEIGHTS = {"w": torch.ones(4, 4), "kernel": torch.ones(3, 3, 2, 2)}


def graph(function: Any) -> fx.GraphModule:
    return through(module_of(function, **WEIGHTS), canonicalize)


def result(function: Any) -> fx.Node:
    """Return the node that computes the result of `function`."""
    (output,) = [n for n in graph(function).graph.nodes if n.op == "output"]
    return output.args[0]  # type: ignore[no-any-return]


def products(function: Any) -> list[fx.Node]:
    return [n for n in graph(function).graph.nodes if n.target in dataflow.PRODUCTS]


def _moved(self: Any, x: Tensor) -> Tensor:
    y = F.softmax(x, -1).reshape(2, 2, 4).permute(1, 0, 2).chunk(2)[1]
    return torch.roll(F.pad(y, (1, 1)), 1).to(torch.bfloat16).contiguous().mT


def test_origin_looks_through_what_only_moves_values() -> None:
    found = dataflow.origin(result(_moved))
    assert found is not None
    assert found.target is F.softmax


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: F.softmax(x, -1) * 2,
        lambda self, x: F.softmax(x, -1).mean(0),
        lambda self, x: torch.cat([F.softmax(x, -1), x]),
        lambda self, x: F.softmax(x, -1).flip(0),
    ],
)
def test_origin_stops_at_what_computes(function: Any) -> None:
    node = result(function)
    assert dataflow.origin(node) is node


def test_origin_of_a_constant_is_none() -> None:
    assert dataflow.origin(3) is None
    assert not dataflow.is_parameter(3)


def test_a_moved_parameter_is_a_parameter() -> None:
    assert dataflow.is_parameter(result(lambda self, x: self.w.t().view(2, 8)))
    assert not dataflow.is_parameter(result(lambda self, x: self.w + 1))
    assert not dataflow.is_parameter(result(lambda self, x: x.t()))


@pytest.mark.parametrize(
    ("function", "flows"),
    [
        (lambda self, x: F.softmax((x @ x.mT) * 0.5 + self.w, -1), True),
        (lambda self, x: F.softmax((x @ x.mT).masked_fill(self.w > 0, -1e9).clamp(-9, 9).view(2, 2, 4), -1), True),
        (lambda self, x: F.softmax(torch.where(self.w > 0, x @ x.mT, -9.0).masked_fill(self.w > 1, -9), -1), True),
        (lambda self, x: F.softmax((x @ x.mT).relu(), -1), False),
        (lambda self, x: F.softmax(F.linear(x @ x.mT, self.w), -1), False),
        (lambda self, x: F.softmax(x, -1) + x @ x.mT, False),
    ],
)
def test_scores_flow_to_softmax_elementwise(function: Any, flows: bool) -> None:
    assert dataflow.flows_to(products(function)[0], F.softmax) is flows


@pytest.mark.parametrize(
    ("function", "reaches"),
    [
        (lambda self, x: F.linear(x.mean(0), self.w), True),
        (lambda self, x: (F.linear(x, self.w).softmax(-1), x)[0], True),
        (lambda self, x: (F.linear(x, self.w) + F.linear(x, self.w)) / 2, True),
        (lambda self, x: F.linear(F.linear(x, self.w).relu(), self.w), False),
        (lambda self, x: F.linear(x, self.w) @ x, False),
        (lambda self, x: F.layer_norm(F.linear(x, self.w), (4,)), False),
    ],
)
def test_a_head_reaches_the_output_and_no_other_product(function: Any, reaches: bool) -> None:
    assert dataflow.reaches_output(products(function)[0]) is reaches


def test_a_result_that_goes_both_ways_is_no_head() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        y = F.linear(x, self.w)
        return y, F.linear(y, self.w)

    first, last = products(forward)
    assert not dataflow.reaches_output(first)
    assert dataflow.reaches_output(last)


@pytest.mark.parametrize(
    ("function", "reads"),
    [
        (lambda self, x: F.conv2d((x - 0.5) / 0.25, self.kernel), True),
        (lambda self, x: F.conv2d(F.pad(x, (1, 1)), self.kernel), True),
        (lambda self, x: F.conv2d(F.conv2d(x, self.kernel), self.kernel), False),
        (lambda self, x: F.conv2d(self.w[None, None], self.kernel), False),
    ],
)
def test_a_patch_embedding_reads_the_input_itself(function: Any, reads: bool) -> None:
    assert dataflow.reads_input(products(function)[-1].args[0]) is reads


def test_a_shared_input_is_visited_once() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        for _ in range(200):
            x = x + x
        return F.conv2d(x, self.kernel)

    assert dataflow.reads_input(products(forward)[0].args[0])


def _joint_qkv(self: Any, x: Tensor) -> Tensor:
    q, k, v = F.linear(x, self.w).reshape(2, 1, 4, 3, 4).permute(3, 0, 1, 2, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v)


def _joint_qkv_by_hand(self: Any, x: Tensor) -> Tensor:
    q, k, v = F.linear(x, self.w).chunk(3, dim=-1)
    return F.softmax((q * 0.5) @ k.transpose(-2, -1) + self.w, -1) @ v


def _joint_qk(self: Any, x: Tensor) -> Tensor:
    q, k = F.linear(x, self.w).chunk(2, dim=-1)
    return F.softmax(q @ k.mT, -1) @ x


def _joint_kv(self: Any, x: Tensor) -> Tensor:
    k, v = F.linear(x, self.w).chunk(2, dim=-1)
    return F.scaled_dot_product_attention(x, k, v)


def _separate(self: Any, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(F.linear(x, self.w), x, x)


def _separate_value(self: Any, x: Tensor) -> Tensor:
    return F.softmax(x @ x.mT, -1) @ F.linear(x, self.w).reshape(2, 4, 4)


def _normed_queries_and_keys(self: Any, x: Tensor) -> Tensor:
    q, k, v = F.linear(x, self.w).chunk(3, dim=-1)
    q, k = F.layer_norm(q, (4,), self.w[0]), F.layer_norm(k, (4,)).to(v.dtype)
    return F.softmax(q * 2 @ k.mT, -1) @ v


def _rotated(self: Any, x: Tensor) -> Tensor:
    q, k, v = F.linear(x, self.w).chunk(3, dim=-1)
    q, k = (t * self.w + torch.cat([t, t], -1)[..., :4] * self.w for t in (q, k))
    return F.scaled_dot_product_attention(q, k, v)


def _queries_of_another(self: Any, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x.mT, F.linear(x, self.w).relu())


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (_joint_qkv, 3),
        (_joint_qkv_by_hand, 3),
        (_joint_qk, 2),
        (_joint_kv, 2),
        (_separate, 1),
        (_separate_value, 1),
        (_normed_queries_and_keys, 3),
        (_queries_of_another, 0),
        (lambda self, x: F.linear(F.gelu(F.linear(x, self.w)), self.w), 0),
        (lambda self, x: F.linear(F.softmax(x @ x.mT, -1) @ x, self.w), 0),
    ],
)
def test_a_layer_computes_several_of_query_key_and_value(function: Any, count: int) -> None:
    linear = next(n for n in products(function) if n.target is F.linear)
    assert dataflow.projections(linear) == count


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (small_vit(), {"attn.qkv": 3}),
        (small_vit(qk_norm=True), {"attn.qkv": 3}),
        (small_swin(), {"attn.qkv": 3}),
    ],
    ids=["vit", "qk_norm", "swin"],
)
@pytest.mark.parametrize("fused", [True, False])
def test_projections_of_models(model: nn.Module, expected: dict[str, int], fused: bool) -> None:
    """Fused or spelled out, with timm's function for an optional mask in between."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", fused)  # noqa: B010
    linears = [n for n in fxquant.trace(model).graph.nodes if n.target is F.linear]
    assert len(linears) > 8
    for node in linears:
        path = module_path(node)
        wanted = next((count for end, count in expected.items() if path.endswith(end)), 0)
        assert dataflow.projections(node) == wanted, path


def test_what_only_masks_scores() -> None:
    def forward(self: Any, x: Tensor, bias: Tensor, mask: Tensor, other: Tensor) -> Tensor:
        scores = torch.matmul(x, x.transpose(-2, -1)) + bias
        y = torch.matmul(F.softmax(scores, -1), x)
        return F.scaled_dot_product_attention(y, y, y, attn_mask=mask) + F.linear(x + other, self.w)

    config = fxquant.recipe("minmax", attention=True)
    gm = fxquant.prepare(module_of(forward, w=torch.zeros(4, 4)), config)
    found = {str(n.target): m.infinite for n in gm.graph.nodes if n.op == "placeholder" for m in [_recorder(gm, n)]}
    assert found == {"x": False, "bias": True, "mask": True, "other": False}


def _recorder(gm: Any, node: Any) -> Any:
    (user,) = node.users
    return gm.get_submodule(user.target)
