"""The driver: fixpoint, loop guard, meta, dead code, errors; and that it keeps the values of random graphs."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from fxquant.config.operands import Role
from fxquant.errors import CalibrationError, PassError
from fxquant.graph.match import Call, Match, Var, match
from fxquant.graph.meta import Operand, Product, Record, record_of, set_record
from fxquant.graph.rewrite import Rule, edit, location, rewrite
from tests.support.check_pass import assert_reads, check_pass, check_unchanged, graph_of, module_of, render

X, Y = torch.randn(3, 4), torch.randn(3, 4)


def _drop(graph: fx.Graph, m: Match) -> fx.Node | None:
    return m["x"]  # type: ignore[no-any-return]


def _add_negative(graph: fx.Graph, m: Match) -> fx.Node | None:
    return graph.call_function(operator.add, (m["x"], graph.call_function(operator.neg, (m["y"],))))


def _double(graph: fx.Graph, m: Match) -> fx.Node | None:
    return graph.call_function(operator.add, (m["x"], m["x"]))


# Each keeps every bit of a float.
TWICE_NEGATED: Rule = (Call(operator.neg, Call(operator.neg, Var("x"))), _drop)
TWICE_RELU: Rule = (Call("relu", Call("relu", ..., name="x")), _drop)
SUBTRACTION: Rule = (Call(operator.sub, Var("x"), Var("y")), _add_negative)
TIMES_TWO: Rule = (Call(operator.mul, Var("x"), 2), _double)
CLONE: Rule = (Call("clone", Var("x")), _drop)
RULES = (TWICE_NEGATED, TWICE_RELU, SUBTRACTION, TIMES_TWO, CLONE)


def simplify(gm: fx.GraphModule) -> Any:
    return rewrite(gm, RULES, "simplify")


def test_runs_to_a_fixpoint() -> None:
    check_pass(
        simplify,
        module_of(lambda self, x, y: x - (-(x - -y))),
        (X, Y),
        before="""
            (x, y)
            neg = -y
            sub = x - neg
            neg_1 = -sub
            sub_1 = x - neg_1
            return sub_1
        """,
        after="""
            (x, y)
            add = x + y
            add_1 = x + add
            return add_1
        """,
    )


def test_leaves_near_misses() -> None:
    def forward(self: nn.Module, x: Tensor, y: Tensor) -> Any:
        return x * 3, 2 * x, x + -y, x.tanh().relu(), torch.relu(torch.relu(x))

    check_unchanged(simplify, module_of(forward), (X, Y))


def test_removes_dead_code_and_says_so() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        x.exp()
        return x * 3

    check_pass(simplify, module_of(forward), (X,), after="(x)\nmul = x * 3\nreturn mul")


def test_readers_that_died_are_not_counted() -> None:
    def only_reader(graph: fx.Graph, m: Match) -> fx.Node | None:
        return m["x"] if len(m["inner"].users) == 1 else None

    rules: tuple[Rule, ...] = (CLONE, (Call("exp", Call("log", Var("x"), name="inner")), only_reader))

    def forward(self: nn.Module, x: Tensor) -> Any:
        y = x.log()
        y.clone().tanh()
        return y.exp()

    gm = graph_of(module_of(forward))
    result = rewrite(gm, rules, "log_exp")
    assert_reads(result.graph_module, "(x)\nreturn x")
    assert not rewrite(gm, rules, "log_exp").modified


def test_stops_rules_that_rewrite_each_other() -> None:
    def to_sin(graph: fx.Graph, m: Match) -> fx.Node | None:
        return graph.call_function(torch.sin, (m["x"],))

    def to_cos(graph: fx.Graph, m: Match) -> fx.Node | None:
        return graph.call_function(torch.cos, (m["x"],))

    rules: tuple[Rule, ...] = ((Call(torch.cos, Var("x")), to_sin), (Call(torch.sin, Var("x")), to_cos))
    with pytest.raises(PassError, match=r"pass 'rotate' .* still rewrite each other after 100 sweeps"):
        rewrite(graph_of(module_of(lambda self, x: torch.cos(x))), rules, "rotate")


def test_new_nodes_inherit_origin_and_the_last_one_the_value() -> None:
    gm = graph_of(module_of(lambda self, x, y: x - y))
    (old,) = [n for n in gm.graph.nodes if n.target is operator.sub]
    old.meta["val"], old.meta["nn_module_stack"] = X, {"fc": ("fc", nn.Linear)}
    record = Record(Product.LINEAR, "fc", "fc", (Operand(Role.WEIGHT, "fc.weight", None),))
    set_record(old, record)
    trace = old.meta["stack_trace"]
    rewrite(gm, (SUBTRACTION,), "add")
    negative, total = [n for n in gm.graph.nodes if n.op == "call_function"]
    for node in (negative, total):
        assert node.meta["stack_trace"] == trace
        assert node.meta["nn_module_stack"] == {"fc": ("fc", nn.Linear)}
    assert total.meta["val"] is X
    assert record_of(total) == record
    assert "val" not in negative.meta
    assert record_of(negative) is None


def test_a_node_that_was_there_before_keeps_its_own_meta() -> None:
    gm = graph_of(module_of(lambda self, x: x.relu().clone()))
    relu, clone = [n for n in gm.graph.nodes if n.op == "call_method"]
    set_record(clone, Record(Product.LINEAR, "fc", "fc", ()))
    rewrite(gm, (CLONE,), "drop")
    assert record_of(relu) is None


def _fails(graph: fx.Graph, m: Match) -> fx.Node | None:
    raise ValueError("no such scale")


def test_an_error_names_pass_node_and_source_line() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = x + 1
        return y.clone()

    gm = graph_of(module_of(forward))
    with pytest.raises(PassError) as raised:
        rewrite(gm, ((Call("clone", Var("x")), _fails),), "drop_clones")
    line = forward.__code__.co_firstlineno + 2
    assert raised.value.pass_name == "drop_clones"
    assert raised.value.node == "clone"
    assert "pass 'drop_clones' failed at node 'clone'" in str(raised.value)
    assert f'test_rewrite.py", line {line}' in str(raised.value)
    assert "ValueError: no such scale" in str(raised.value)
    assert isinstance(raised.value.__cause__, ValueError)


def test_an_error_of_our_own_is_not_wrapped() -> None:
    def refuse(graph: fx.Graph, m: Match) -> fx.Node | None:
        raise CalibrationError("node 'fc' was never calibrated")

    with pytest.raises(CalibrationError, match="never calibrated"):
        rewrite(graph_of(module_of(lambda self, x: x.clone())), ((Call("clone", Var("x")), refuse),), "drop")


def test_a_rule_that_builds_and_then_declines_is_an_error() -> None:
    def hesitate(graph: fx.Graph, m: Match) -> fx.Node | None:
        graph.call_method("relu", (m["x"],))
        return None

    with pytest.raises(PassError, match="built nodes and then declined"):
        rewrite(graph_of(module_of(lambda self, x: x.clone())), ((Call("clone", Var("x")), hesitate),), "drop")


def test_edit_recompiles_what_was_modified_only() -> None:
    gm = graph_of(module_of(lambda self, x: x.clone()))
    code = gm.forward.__code__  # type: ignore[union-attr]
    assert not edit(gm, lambda module: False).modified
    assert gm.forward.__code__ is code  # type: ignore[union-attr]

    def rename(module: fx.GraphModule) -> bool:
        (node,) = [n for n in module.graph.nodes if n.target == "clone"]
        node.target = "exp"
        return True

    assert edit(gm, rename).modified
    assert torch.equal(gm(X), X.exp())


def test_location_is_the_line_of_the_model_not_of_the_library() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)  # type: ignore[no-any-return]

    gm = graph_of(Wrapped())
    (linear,) = [n for n in gm.graph.nodes if n.op == "call_function"]
    line = Wrapped.forward.__code__.co_firstlineno + 1
    assert f'test_rewrite.py", line {line}' in location(linear)
    linear.stack_trace = None
    assert location(linear) == ""


UNARY = ("neg", "relu", "clone", "tanh", "times_two", "times_three")
BINARY = ("add", "sub", "mul")
chains = st.lists(st.tuples(st.sampled_from(UNARY + BINARY), st.integers(0, 30), st.integers(0, 30)), max_size=25)


def graph_from(steps: list[tuple[str, int, int]]) -> fx.GraphModule:
    """Build a graph from steps: an operator, and which earlier values it reads."""
    graph = fx.Graph()
    values = [graph.placeholder("x"), graph.placeholder("y")]
    for name, i, j in steps:
        x, y = values[i % len(values)], values[j % len(values)]
        if name in ("times_two", "times_three"):
            values.append(graph.call_function(operator.mul, (x, 2 if name == "times_two" else 3)))
        elif name in BINARY:
            values.append(graph.call_function(getattr(operator, name), (x, y)))
        elif name == "neg":
            values.append(graph.call_function(operator.neg, (x,)))
        else:
            values.append(graph.call_method(name, (x,)))
    graph.output((values[-1], values[len(values) // 2]))
    return fx.GraphModule({}, graph)


@settings(max_examples=150)
@given(steps=chains, order=st.permutations(RULES))
def test_random_graphs_keep_their_values(steps: list[tuple[str, int, int]], order: list[Rule]) -> None:
    gm = graph_from(steps)
    expected, text = gm(X, Y), render(gm)
    result = rewrite(gm, order, "simplify")
    torch.testing.assert_close(gm(X, Y), expected, rtol=0, atol=0, equal_nan=True)
    assert result.modified == (render(gm) != text)
    assert not any(match(pattern, node) for node in gm.graph.nodes for pattern, _ in RULES)
    assert not rewrite(gm, order, "simplify").modified
