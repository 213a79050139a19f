"""What kernels refuse although shapes fit is refused at load: each operator here has a shape, and cannot run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxquant import CheckpointError
from fxquant.checkpoint.soundness.shape_run import run_on_shapes

X = torch.empty(2, 3, 8, 8, device="meta")


def graph_of(build: Callable[[fx.Graph, fx.Node], Any], **tensors: Tensor) -> fx.GraphModule:
    root = nn.Module()
    for name, tensor in tensors.items():
        root.register_buffer(name, tensor)
    graph = fx.Graph()
    graph.output(build(graph, graph.placeholder("x")))
    return fx.GraphModule(root, graph)


WEIGHT = {"weight": torch.zeros(4, 3, 3, 3)}
CALLS: list[tuple[Any, tuple[Any, ...], str]] = [
    (F.conv2d, ("x", "weight", None, 1, 0, 0), "dilations and groups of 1 or more"),
    (F.conv2d, ("x", "weight", None, 0), ""),
    (F.conv2d, ("x", "weight", "x"), "bias"),
    (F.linear, ("x", "codes"), "one dtype"),
    (F.linear, ("row", "square", "x"), "bias of one axis"),
    (torch.bitwise_or, ("x", "x"), "not implemented for 'Float'"),
    (torch.frac, ("codes",), "not implemented for"),
    (torch.std, ("codes",), "floating point"),
    (F.softmax, ("x", 65537), "range|axes"),
    (torch.pow, ("codes", -2), "no power of -2"),
    (torch.roll, ("x", (2**62,), (0,)), "below 2"),
]


@pytest.mark.parametrize(("function", "args", "match"), CALLS)
def test_refused(function: Any, args: tuple[Any, ...], match: str) -> None:
    tensors = WEIGHT | {
        "codes": torch.zeros(8, 8, dtype=torch.int8),
        "row": torch.zeros(8),
        "square": torch.zeros(8, 8),
    }

    def build(graph: fx.Graph, x: fx.Node) -> fx.Node:
        nodes = {name: graph.get_attr(name) for name in tensors} | {"x": x}
        return graph.call_function(function, tuple(nodes[a] if isinstance(a, str) else a for a in args))

    with pytest.raises(CheckpointError, match=match or "conv2d"):
        run_on_shapes(graph_of(build, **tensors), [X])


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (F.conv2d, ("x", "weight", None, 2, 1, 2)),
        (F.linear, ("x", "square", "row")),
        (torch.std, ("x", 1)),
        (F.softmax, ("x", -1)),
        (torch.unsqueeze, ("x", 4)),
        (torch.pow, ("x", -2)),
    ],
)
def test_taken(function: Any, args: tuple[Any, ...]) -> None:
    tensors = WEIGHT | {"row": torch.zeros(8), "square": torch.zeros(8, 8)}

    def build(graph: fx.Graph, x: fx.Node) -> fx.Node:
        nodes = {name: graph.get_attr(name) for name in tensors} | {"x": x}
        return graph.call_function(function, tuple(nodes[a] if isinstance(a, str) else a for a in args))

    gm = graph_of(build, **tensors)
    values = run_on_shapes(gm, [X])
    real = {"x": torch.zeros(X.shape)} | tensors
    expected = function(*(real[a] if isinstance(a, str) else a for a in args))
    assert values[gm.graph.output_node()].shape == expected.shape


# By -1, the least whole number has no quotient; cut off, the division stops the process.
@pytest.mark.parametrize("divisor", [-1, 0, "codes"])
def test_a_quotient_of_whole_numbers_that_may_not_exist_is_refused(divisor: Any) -> None:
    with pytest.raises(CheckpointError, match="a fixed number of 1 or more"):
        run_on_shapes(_quotient("codes", divisor), [X])


@pytest.mark.parametrize(("dividend", "divisor"), [("codes", 16), ("codes", 0.5), ("x", -1), ("x", "x")])
def test_other_quotients_are_taken(dividend: str, divisor: Any) -> None:
    gm = _quotient(dividend, divisor)
    assert isinstance(run_on_shapes(gm, [X])[gm.graph.output_node()], Tensor)


def _quotient(dividend: str, divisor: Any) -> fx.GraphModule:
    def build(graph: fx.Graph, x: fx.Node) -> fx.Node:
        nodes = {"x": x, "codes": graph.get_attr("codes")}
        operands = (nodes[dividend], nodes.get(divisor, divisor))
        return graph.call_function(torch.div, operands, {"rounding_mode": "trunc"})

    return graph_of(build, codes=torch.zeros(8, dtype=torch.int32))
