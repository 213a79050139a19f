"""Patterns match what they say, and near misses they do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.graph.match import Call, Var, match
from tests.support.check_pass import graph_of, module_of


def node_of(function: Any) -> fx.Node:
    """Return the node that computes the result of `function`, whose arguments are inputs or the weight ``w``."""
    gm = graph_of(module_of(function, w=torch.ones(2, 2), b=torch.ones(2)))
    (output,) = [n for n in gm.graph.nodes if n.op == "output"]
    return output.args[0]  # type: ignore[no-any-return]


def test_captures_by_name_and_the_node_itself_as_root() -> None:
    node = node_of(lambda self, x: F.linear(x, self.w, self.b))
    found = match(Call(F.linear, Var("x"), Var("w"), Var("b")), node)
    assert found == {"root": node, "x": node.args[0], "w": node.args[1], "b": node.args[2]}


def test_an_absent_optional_argument_is_none() -> None:
    pattern = Call(F.linear, Var("x"), Var("w"), Var("b", optional=True))
    found = match(pattern, node_of(lambda self, x: F.linear(x, self.w)))
    assert found is not None
    assert found["b"] is None
    required = Call(F.linear, Var("x"), Var("w"), Var("b"))
    assert match(required, node_of(lambda self, x: F.linear(x, self.w))) is None


def test_a_nested_call_captures_its_node() -> None:
    node = node_of(lambda self, x: F.linear(torch.exp(x), self.w, self.b))
    pattern = Call(F.linear, Call(torch.exp, Var("x"), name="inner"), ...)
    found = match(pattern, node)
    assert found is not None
    assert found["inner"] is node.args[0]
    assert match(Call(F.linear, Call(torch.log, Var("x")), ...), node) is None


def test_one_name_is_one_value() -> None:
    square = Call(torch.matmul, Var("x"), Var("x"))
    assert match(square, node_of(lambda self, x: torch.matmul(x, x))) is not None
    assert match(square, node_of(lambda self, x: torch.matmul(x, self.w))) is None
    pair = Call("reshape", Var("x"), Var("size"), Var("size"))
    assert match(pair, node_of(lambda self, x: x.reshape(1000, 1000))) is not None
    assert match(pair, node_of(lambda self, x: x.reshape(1000, 2000))) is None


def test_several_targets_and_methods_by_name() -> None:
    pattern = Call((torch.relu, "relu"), Var("x"))
    assert match(pattern, node_of(lambda self, x: torch.relu(x))) is not None
    assert match(pattern, node_of(lambda self, x: x.relu())) is not None
    assert match(pattern, node_of(lambda self, x: x.tanh())) is None


def test_constants_are_compared() -> None:
    pattern = Call("softmax", Var("x"), -1)
    assert match(pattern, node_of(lambda self, x: x.softmax(-1))) is not None
    assert match(pattern, node_of(lambda self, x: x.softmax(1))) is None


def test_where_must_hold() -> None:
    pattern = Call("to", Var("x"), Var("dtype", where=lambda v: isinstance(v, torch.dtype)))
    assert match(pattern, node_of(lambda self, x: x.to(torch.float64))) is not None
    assert match(pattern, node_of(lambda self, x: x.to("cpu"))) is None


def _more_arguments(self: Any, x: Tensor) -> Tensor:
    return x.transpose(0, 1)


def _keyword(self: Any, x: Tensor) -> Tensor:
    return x.transpose(0, dim1=1)


@pytest.mark.parametrize("function", [_more_arguments, _keyword])
def test_only_an_ellipsis_matches_what_is_left(function: Any) -> None:
    node = node_of(function)
    assert match(Call("transpose", Var("x"), ...), node) is not None
    assert match(Call("transpose", Var("x"), 0), node) is None
    assert match(Call("transpose", Var("x"), 0, 1, Var("more")), node) is None


def test_placeholders_and_constants_are_no_calls() -> None:
    node = node_of(lambda self, x: F.linear(x, self.w, self.b))
    assert match(Call(F.linear, Call(torch.exp, ...), ...), node) is None
    assert match(Call("x", ...), node.args[0]) is None  # type: ignore[arg-type]
