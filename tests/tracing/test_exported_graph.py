"""The graph that export captures has the form of a traced one: names, parameters, origin of nodes, no device."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant.graph.meta import module_path
from fxquant.tracing.capture import capture
from fxquant.tracing.export import export_graph
from tests.support.check_pass import assert_reads
from tests.support.export import Block, Tiny, check_capture, small_module


@pytest.fixture(scope="module")
def tiny() -> tuple[Tiny, fx.GraphModule]:
    torch.manual_seed(0)
    model = Tiny().eval()
    return model, capture(model, torch.randn(1, 3, 8, 8))


def test_capture_falls_back_to_export_with_an_example(tiny: tuple[Tiny, fx.GraphModule]) -> None:
    model, gm = tiny
    check_capture(model, gm, (3, 8, 8))
    placeholders = [str(n.target) for n in gm.graph.nodes if n.op == "placeholder"]
    assert placeholders == ["image"], "the optional argument keeps its default value"
    assert isinstance(gm.graph.output_node().args[0], fx.Node)
    assert not any("_guards_fn" in str(n.target) for n in gm.graph.nodes)


def test_the_graph_reads_as_a_traced_one(tiny: tuple[Tiny, fx.GraphModule]) -> None:
    _, gm = tiny
    block = [n for n in gm.graph.nodes if module_path(n).startswith("blocks.1") and n.op != "get_attr"]
    spelled = [n.target if isinstance(n.target, str) else n.target.__name__ for n in block]
    assert spelled == [
        *("layer_norm", "linear", "reshape", "permute", "unbind", "getitem", "getitem", "getitem"),
        *("transpose", "matmul", "mul", "softmax", "matmul", "add", "silu"),
    ]
    assert all(type(n.target).__module__ != "torch._ops" for n in gm.graph.nodes)


def test_nodes_know_their_module_and_line(tiny: tuple[Tiny, fx.GraphModule]) -> None:
    _, gm = tiny
    linears = [n for n in gm.graph.nodes if n.target is F.linear]
    assert [module_path(n) for n in linears] == ["blocks.0.qkv", "blocks.1.qkv", "again.qkv"]
    assert linears[1].meta["nn_module_stack"]["blocks.1"] == ("blocks.1", Block)
    bias = linears[1].args[2]
    assert isinstance(bias, fx.Node)
    assert (bias.target, module_path(bias)) == ("blocks.1.qkv.bias", "blocks.1.qkv")
    product = next(n for n in gm.graph.nodes if n.target is torch.matmul)
    assert module_path(product) == "blocks.0"
    assert "q @ k.transpose" in str(product.stack_trace)
    assert all(set(n.meta) <= {"nn_module_stack", "stack_trace"} for n in gm.graph.nodes)


def test_parameters_are_those_of_the_model(tiny: tuple[Tiny, fx.GraphModule]) -> None:
    model, gm = tiny
    own, found = dict(model.named_parameters()), dict(gm.named_parameters())
    assert all(found[name] is own[name] for name in found)
    assert found.keys() == own.keys()
    weights = {n.args[1].target for n in gm.graph.nodes if n.target is F.linear}
    assert weights == {"blocks.0.qkv.weight"}, "a shared weight has one name"
    buffers = dict(gm.named_buffers())
    assert buffers["scale"] is model.scale
    assert {"stem.running_mean", "constant"} <= set(buffers)
    assert not gm.training


def test_no_node_names_a_device(tiny: tuple[Tiny, fx.GraphModule]) -> None:
    _, gm = tiny
    for node in gm.graph.nodes:
        assert not any(isinstance(a, torch.device) for a in (*node.args, *node.kwargs.values()))


def test_pickles(tiny: tuple[Tiny, fx.GraphModule]) -> None:
    _, gm = tiny
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(pickle.loads(pickle.dumps(gm))(x), gm(x))


def test_several_inputs_and_results() -> None:
    def function(self: Any, x: Tensor, y: Tensor, scale: float = 2.0) -> dict[str, Any]:
        x = self.fc(x)
        return {"sum": x + y, "both": (x, [y * scale])}

    gm = export_graph(small_module(function), (torch.randn(1, 4), torch.randn(1, 4), 3.0), "")
    assert_reads(
        gm,
        """
        (x, y)
        linear = F.linear(x, fc.weight, fc.bias)
        add = linear + y
        mul = y * 3.0
        return {'sum': add, 'both': (linear, [mul])}
        """,
    )


def test_regions_without_gradient_or_autocast_are_inlined() -> None:
    def function(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", enabled=False):
            y = self.fc(x)
        with torch.enable_grad():
            z = y * 2
        return y, z

    model = small_module(function)
    gm = export_graph(model, (torch.randn(1, 4),), "")
    x = torch.randn(3, 4)
    assert all(torch.equal(a, b) for a, b in zip(gm(x), model(x), strict=True))
    assert_reads(gm, "(x)\nlinear = F.linear(x, fc.weight, fc.bias)\nmul = linear * 2\nreturn (linear, mul)")


def test_autocast_becomes_casts() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.fc(x)
        return y.float()

    model = small_module(function)
    gm = export_graph(model, (torch.randn(1, 4),), "")
    x = torch.randn(3, 4)
    assert torch.equal(gm(x), model(x))
    assert [n.target for n in gm.graph.nodes if n.op == "call_method"] == ["to"] * 4


def test_what_depends_on_the_batch_alone_asks_the_input_for_its_device() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        result: Tensor = self.fc(x) + torch.arange(x.shape[0], device=x.device)[:, None]
        return result

    gm = export_graph(small_module(function), (torch.randn(1, 4),), "")
    assert_reads(
        gm,
        """
        (x)
        size = x.size(0)
        linear = F.linear(x, fc.weight, fc.bias)
        device = x.device
        arange = torch.arange(size, device=device)
        unsqueeze = arange.unsqueeze(1)
        add = linear + unsqueeze
        return add
        """,
    )


class Checked(nn.Module):
    """Asserts that its second input is positive; `shifted`: adds a number that is read from it, too."""

    def __init__(self, shifted: bool) -> None:
        super().__init__()
        self.fc, self.shifted = nn.Linear(4, 4), shifted

    def forward(self, x: Tensor, sizes: Tensor) -> Tensor:
        positive: Any = (sizes > 0).all().item()
        torch._check(positive)
        y = self.fc(x) * sizes
        return y + sizes.sum().item() if self.shifted else y


def test_assertions_on_values_are_left_out_with_what_they_read() -> None:
    model, inputs = Checked(shifted=False).eval(), (torch.randn(2, 4), torch.ones(2, 1))
    gm = export_graph(model, inputs, "")
    assert [n.name for n in gm.graph.nodes if n.op.startswith("call")] == ["linear", "mul"]
    assert torch.equal(gm(*inputs), model(*inputs))


def test_a_number_that_the_output_needs_stays() -> None:
    model, inputs = Checked(shifted=True).eval(), (torch.randn(2, 4), torch.ones(2, 1))
    gm = export_graph(model, inputs, "")
    assert sum("item" in n.name for n in gm.graph.nodes) == 1
    assert torch.equal(gm(*inputs), model(*inputs))
