"""
What every test of a pass uses: graphs as short text, and one check for everything a pass has to keep.

A graph is written one line per node, tensors of the module by their name, operators as people write them:

    (x)
    linear = F.linear(x, fc.weight, fc.bias)
    add = linear + x
    return add
"""

from __future__ import annotations

import copy
import operator
import textwrap
import types
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from fxquant.graph.meta import record_of
from fxquant.graph.rewrite import Pass
from fxquant.graph.stages import Stage
from fxquant.ops import check_values, mark_invalid
from fxquant.spec import verify
from fxquant.tracing.symbolic import symbolic_graph

_INFIX = {
    **{operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/", operator.floordiv: "//"},
    **{operator.mod: "%", operator.pow: "**", operator.matmul: "@", operator.eq: "==", operator.ne: "!="},
    **{operator.iadd: "+=", operator.imul: "*=", operator.ifloordiv: "//="},
}
_FORMATS: dict[Any, str] = {operator.getitem: "{0}[{1}]", getattr: "{0}.{1}", operator.neg: "-{0}"}


def check_pass(
    pass_: Pass,
    module_or_graph: nn.Module,
    inputs: Sequence[Any],
    *,
    before: str | None = None,
    after: str,
    stage: Stage = Stage.FLOAT,
    tolerance: float = 0.0,
) -> fx.GraphModule:
    """
    Run `pass_` on a copy and return it, having checked all that a pass promises.

    The graph reads `before`, then `after`. The outputs are those of what was given, bit for bit or to `tolerance` of their
    norm. A second run changes nothing. `modified` tells the truth both times. The result is legal on the way to `stage`, and
    its compiled code is that of its graph. A plain module is traced first, without `canonicalize`.
    """
    original = graph_of(module_or_graph)
    if before is not None:
        assert_reads(original, before)
    gm = copy.deepcopy(original)
    known = _knowledge(gm)
    result = pass_(gm)
    gm = result.graph_module
    assert_reads(gm, after)
    assert result.modified == (_knowledge(gm) != known), f"modified is {result.modified}"
    gm.graph.lint()
    verify(gm, stage, complete=False)
    known = _knowledge(gm)
    assert not pass_(gm).modified, f"a second run modified the graph:\n{render(gm)}"
    assert _knowledge(gm) == known, "a second run changed the graph and said that it did not"
    assert_close(module_or_graph, gm, inputs, tolerance)
    return gm


def check_unchanged(
    pass_: Pass, module_or_graph: nn.Module, inputs: Sequence[Any] = (), stage: Stage = Stage.FLOAT
) -> fx.GraphModule:
    """Check that `pass_` leaves a near miss as it is, and says so."""
    original = graph_of(module_or_graph)
    gm = check_pass(pass_, original, inputs, after=render(original), stage=stage)
    assert _knowledge(gm) == _knowledge(original)
    return gm


def graph_of(module_or_graph: nn.Module) -> fx.GraphModule:
    """Return the graph of a plain module as the tracer captures it."""
    if isinstance(module_or_graph, fx.GraphModule):
        return module_or_graph
    return symbolic_graph(module_or_graph.eval())


def through(module_or_graph: nn.Module, *passes: Pass) -> fx.GraphModule:
    """Return a copy of the graph after `passes`."""
    gm = copy.deepcopy(graph_of(module_or_graph))
    for each in passes:
        gm = each(gm).graph_module
    return gm


def assert_reads(gm: fx.GraphModule, text: str) -> None:
    """Compare the graph with its expected text, line by line."""
    assert render(gm).splitlines() == textwrap.dedent(text).strip().splitlines()


def assert_close(original: nn.Module, changed: nn.Module, inputs: Sequence[Any], tolerance: float = 0.0) -> None:
    """Check that both modules, and both by `fx.Interpreter`, give the same tensors."""
    if not inputs:
        return
    interpret = fx.Interpreter(changed).run if isinstance(changed, fx.GraphModule) else changed
    for run in (changed, interpret):
        with torch.no_grad():
            expected, found = (_tensors(f(*_cloned(inputs))) for f in (original, run))
        assert len(expected) == len(found)
        for e, f in zip(expected, found, strict=True):
            assert e.shape == f.shape
            assert e.dtype == f.dtype
            if tolerance == 0.0:
                assert torch.equal(e, f), f"differs by {(e.double() - f.double()).abs().max():.3g}"
            else:
                assert (e.double() - f.double()).norm() <= tolerance * e.double().norm()


def render(gm: fx.GraphModule) -> str:
    """
    Return the graph as text; names are made of the operators, so that they do not depend on how it came about.

    What `GuardInputs` adds to every converted graph is left out; its own test looks at it.
    """
    names: dict[fx.Node, str] = {}
    counts: Counter[str] = Counter()
    lines = [f"({', '.join(str(n.target) for n in gm.graph.nodes if n.op == 'placeholder')})"]
    for node in gm.graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            names[node] = str(node.target)
            continue
        if node.target in (check_values, mark_invalid):
            names[node] = _argument(node.args[0], names)
            continue
        arguments = [_argument(a, names) for a in node.args]
        arguments += [f"{key}={_argument(value, names)}" for key, value in node.kwargs.items()]
        if node.op == "output":
            lines.append(f"return {arguments[0]}")
            continue
        base = _short_name(node)
        names[node] = f"{base}_{counts[base]}" if counts[base] else base
        counts[base] += 1
        lines.append(f"{names[node]} = {_call(node, arguments)}")
    return "\n".join(lines)


def _call(node: fx.Node, arguments: list[str]) -> str:
    if node.op == "call_method":
        return f"{arguments[0]}.{node.target}({', '.join(arguments[1:])})"
    if node.op == "call_module":
        return f"{node.target}({', '.join(arguments)})"
    if node.target in _INFIX and len(arguments) == 2:
        return f" {_INFIX[node.target]} ".join(arguments)
    if node.target in _FORMATS:
        return _FORMATS[node.target].format(arguments[0], *(a.strip("'()") for a in arguments[1:]))
    return f"{_prefix(node.target)}{_short_name(node)}({', '.join(arguments)})"


def _prefix(target: Any) -> str:
    name = getattr(target, "__name__", str(target))
    for module, prefix in ((F, "F."), (torch, "torch."), (operator, "operator.")):
        if getattr(module, name, None) is target:
            return prefix
    return ""


def _short_name(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target).rpartition(".")[2]
    if node.target is getattr:
        return str(node.args[1])
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.target))


def _argument(value: Any, names: dict[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return names[value]
    if isinstance(value, slice):
        parts = ["" if p is None else _argument(p, names) for p in (value.start, value.stop, value.step)]
        return ":".join(parts[:2] if value.step is None else parts)
    if isinstance(value, tuple | list):
        inner = ", ".join(_argument(v, names) for v in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


def _knowledge(gm: fx.GraphModule) -> list[Any]:
    """Return what a pass may change: the graph, the records on it, and the tensors it reads."""
    names = {n.target for n in gm.graph.nodes if n.op == "get_attr"}
    return [render(gm), [record_of(n) for n in gm.graph.nodes], sorted(map(str, names))]


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def _cloned(inputs: Sequence[Any]) -> list[Any]:
    return [x.clone() if isinstance(x, Tensor) else x for x in inputs]


def module_of(function: Any, **tensors: Tensor) -> nn.Module:
    """Return a module whose parameters are `tensors` and whose forward is ``function(module, *inputs)``, for small graphs."""
    # torch.fx looks for a frame of this name when it records the source line of a node.
    code = function.__code__.replace(co_name="forward")
    forward = types.FunctionType(code, function.__globals__, "forward", function.__defaults__, function.__closure__)
    forward.__kwdefaults__ = function.__kwdefaults__
    module = type("Small", (nn.Module,), {"forward": forward})()
    for name, tensor in tensors.items():
        module.register_parameter(name, nn.Parameter(tensor))
    return module.eval()
