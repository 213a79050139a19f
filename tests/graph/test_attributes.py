"""Tensors of a graph module by dotted name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from fxquant.graph.attributes import (
    add_buffer,
    bias_of,
    called_module,
    get_tensor,
    own_tensors,
    prune,
    read_buffer,
    release_tensor,
    set_bias,
    tensor_of,
    window_of,
)
from tests.support.check_pass import graph_of, module_of


def graph() -> fx.GraphModule:
    return graph_of(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False)))


def test_reads_parameters_and_buffers_by_name() -> None:
    gm = graph()
    assert get_tensor(gm, "0.bias") is gm.get_parameter("0.bias")
    with pytest.raises(AttributeError):
        get_tensor(gm, "0.missing")
    with pytest.raises(AttributeError, match="is a Module, not a tensor"):
        get_tensor(gm, "0")


def test_only_nodes_that_read_a_tensor_have_one() -> None:
    gm = graph()
    reads, computes = (next(n for n in gm.graph.nodes if n.op == op) for op in ("get_attr", "call_function"))
    assert tensor_of(reads) is gm.get_parameter("0.weight")
    for other in (computes, 3, None):
        with pytest.raises(TypeError, match="does not read a tensor"):
            tensor_of(other)


def test_only_calls_of_modules_have_one() -> None:
    gm = graph()
    layer = nn.Identity()
    gm.add_submodule("observers.one", layer)
    with gm.graph.inserting_before():
        call = gm.graph.call_module("observers.one")
    assert called_module(call) is layer
    assert [called_module(other) for other in (*gm.graph.nodes, None, 3) if other is not call] == [None] * (
        len(gm.graph.nodes) + 1
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), ((1, 1), (0, 0), (1, 1), 1)),
        ((4,), ((4, 4), (0, 0), (1, 1), 1)),
        (([4, 2], "same"), ((4, 2), "same", (1, 1), 1)),
        (((4, 2), 1, (2, 2), 8), ((4, 2), (1, 1), (2, 2), 8)),
    ],
)
def test_the_settings_of_a_convolution_are_pairs(given: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    values = fx.Graph()
    x, weight, bias = (values.placeholder(name) for name in ("x", "weight", "bias"))
    convolution = values.call_function(F.conv2d, (x, weight, bias, *given))
    assert window_of(convolution) == expected
    assert bias_of(convolution) is bias


def test_a_product_without_a_bias_has_none() -> None:
    values = fx.Graph()
    x, weight = (values.placeholder(name) for name in ("x", "weight"))
    assert bias_of(values.call_function(F.linear, (x, weight))) is None
    assert window_of(values.call_function(F.conv2d, (x, weight))) == ((1, 1), (0, 0), (1, 1), 1)


@pytest.mark.parametrize("given", [(), ("bias",), ("bias", 4, (1, 2))])
def test_sets_a_bias_and_nothing_else(given: tuple[Any, ...]) -> None:
    values = fx.Graph()
    nodes = {name: values.placeholder(name) for name in ("x", "weight", "bias", "new")}
    convolution = values.call_function(F.conv2d, (nodes["x"], nodes["weight"], *(nodes.get(a, a) for a in given)))
    window = window_of(convolution)
    set_bias(convolution, nodes["new"])
    assert bias_of(convolution) is nodes["new"]
    assert convolution.args[:2] == (nodes["x"], nodes["weight"])
    assert window_of(convolution) == window


def test_adds_buffers_where_there_is_room() -> None:
    gm = graph()
    value = torch.ones(2)
    assert add_buffer(gm, "0.scale", value) == "0.scale"
    assert add_buffer(gm, "0.scale", value) == "0.scale_1"
    assert add_buffer(gm, "0.weight", value) == "0.weight_1"
    assert add_buffer(gm, "new.part.scale", value) == "new.part.scale"
    assert add_buffer(gm, "code", value) == "code_", "a graph module has an attribute of that name"
    assert add_buffer(gm, "0.weight.scale", value) == "0.weight_.scale", "a tensor has no buffers"
    for name in ("0.scale", "0.scale_1", "0.weight_1", "new.part.scale", "code_", "0.weight_.scale"):
        assert torch.equal(get_tensor(gm, name), value)


def test_a_buffer_node_knows_its_shape() -> None:
    gm = graph()
    (output,) = [n for n in gm.graph.nodes if n.op == "output"]
    with gm.graph.inserting_before(output):
        node = read_buffer(gm.graph, "0.scale", nn.Parameter(torch.ones(2, dtype=torch.bfloat16)))
    assert (node.op, node.target) == ("get_attr", "0.scale")
    assert node.meta["val"].is_meta
    assert node.meta["val"].dtype is torch.bfloat16
    assert not tensor_of(node).requires_grad


def test_a_tensor_is_released_for_its_only_reader() -> None:
    linear = nn.Linear(4, 4)
    gm = graph_of(nn.Sequential(linear, nn.ReLU(), linear, nn.Linear(4, 2)))
    for node in list(gm.graph.find_nodes(op="get_attr")):
        release_tensor(node)
    assert gm.get_parameter("0.weight") is linear.weight, "two products read it"
    released = gm.get_buffer("3.weight")
    assert (released.is_meta, released.shape) == (True, (2, 4))
    gm.graph.lint()


def test_prune_drops_what_no_node_reads() -> None:
    gm = graph()
    add_buffer(gm, "unused.scale", torch.ones(2))
    gm.register_parameter("spare", nn.Parameter(torch.ones(2)))
    prune(gm)
    assert set(gm.state_dict()) == {"0.weight", "0.bias", "1.weight"}
    assert "unused" not in dict(gm.named_modules())


def test_prune_turns_plain_tensors_into_buffers() -> None:
    gm = graph_of(module_of(lambda self, x: x + self.used, used=torch.ones(4)))
    del gm.used
    gm.used, gm.unused = torch.arange(4.0), torch.ones(4)
    prune(gm)
    assert {name: v.tolist() for name, v in gm.state_dict().items()} == {"used": [0, 1, 2, 3]}
    assert not hasattr(gm, "unused")


def test_prune_keeps_modules_that_are_called() -> None:
    gm = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.GELU()))
    gm.add_module("spare", nn.Linear(2, 2))
    prune(gm)
    assert set(gm.state_dict()) == {"0.weight", "0.bias"}


def test_own_tensors_copies_whatever_lies_in_shared_memory() -> None:
    shared = nn.Parameter(torch.randn(4))
    gm = graph_of_nothing()
    gm.weight, gm.same = shared, shared
    gm.register_buffer("view", shared.detach()[1:3])
    gm.register_buffer("own", torch.ones(2))
    own = gm.own
    own_tensors(gm, [shared])
    assert isinstance(gm.weight, nn.Parameter)
    assert gm.weight is gm.same
    assert gm.own is own
    for name, expected in (("weight", shared), ("view", shared[1:3])):
        value = get_tensor(gm, name)
        assert value.untyped_storage().data_ptr() != shared.untyped_storage().data_ptr()
        assert torch.equal(value, expected)


def graph_of_nothing() -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(graph.placeholder("x"))
    return fx.GraphModule(nn.Module(), graph)
