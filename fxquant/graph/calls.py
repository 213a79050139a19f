"""Calls of operators by the names of their arguments, so that no reader counts positions."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import fx
from torch._ops import OpOverload

_NONE = inspect.Parameter.empty


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """
    Return all arguments of a call by name, defaults among them.

    node: calls one of fxquant's operators, or another function with a signature, such as `torch.nn.functional.layer_norm`.
    """
    return named(node.target, node.args, node.kwargs)


def named(target: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``target(*args, **kwargs)`` by name, defaults among them; `TypeError` where one is missing."""
    defaults = parameters(target)
    given = dict(zip(defaults, args, strict=False)) | dict(kwargs)
    found = {name: given.get(name, default) for name, default in defaults.items()}
    missing = [name for name, value in found.items() if value is _NONE]
    if missing:
        raise TypeError(f"{_name(target)} expected the argument {missing[0]!r}")
    return found


def call(graph: fx.Graph, target: Any, arguments: Mapping[str, Any], spelled_out: bool = False) -> fx.Node:
    """
    Build the call of `target` with `arguments` by name, all of them in their order.

    Arguments at the end that have their default are left out, unless `spelled_out`. Raises `TypeError` where `target` has no
    argument of a name, or where one is missing.
    """
    defaults = parameters(target)
    unknown = arguments.keys() - defaults.keys()
    if unknown:
        raise TypeError(f"{_name(target)} has no argument {min(unknown)!r}")
    values = list(named(target, (), arguments).values())
    for default in reversed(() if spelled_out else tuple(defaults.values())):
        if type(values[-1]) is not type(default) or values[-1] != default:
            break
        values.pop()
    return graph.call_function(target, tuple(values))


def call_again(graph: fx.Graph, node: fx.Node, **changed: Any) -> fx.Node:
    """Build the call of `node` once more, with some of its arguments `changed`."""
    return call(graph, node.target, arguments_of(node) | changed)


@functools.cache
def parameters(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the names of the arguments of an operator in order, with their defaults; `inspect.Parameter.empty` for none."""
    if isinstance(target, OpOverload):
        found = target._schema.arguments
        return {a.name: a.default_value if a.has_default_value() else _NONE for a in found}
    return {name: p.default for name, p in inspect.signature(target).parameters.items()}


def operator_name(node: fx.Node) -> str:
    """Return the name of the function or method that a node calls, without the overload of an ATen operator."""
    if node.op == "call_function":
        name = str(getattr(node.target, "__name__", node.target))
        return name if node.target in vars(operator).values() else name.partition(".")[0]
    return str(node.target) if node.op == "call_method" else node.op


def _name(target: Any) -> str:
    return str(getattr(target, "__name__", target))
