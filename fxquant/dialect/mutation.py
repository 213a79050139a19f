"""Which operators change a tensor in place."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

from torch import fx
from torch._ops import OpOverload, OpOverloadPacket

INPLACE_OPERATORS: dict[Any, Callable[..., Any]] = {
    getattr(operator, f"i{name}"): getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift", "rshift")
} | {operator.iand: operator.and_, operator.ior: operator.or_, operator.ixor: operator.xor}


def mutates(node: fx.Node) -> bool:
    """Say whether `node` changes its first argument in place."""
    if node.op not in ("call_function", "call_method"):
        return False
    if node.target in INPLACE_OPERATORS or node.kwargs.get("out") is not None or node.target is operator.setitem:
        return True
    if isinstance(node.target, OpOverload | OpOverloadPacket):
        return _writes(node.target)
    name = operator_name(node)
    if getattr(node.target, "__module__", "") == "_operator":
        return False  # and_, or_ and not_ are called so because of keywords
    return (name.endswith("_") and not name.startswith("_") and name != "requires_grad_") or has_inplace_flag(node)


def _writes(operator: OpOverload | OpOverloadPacket) -> bool:
    """Say whether the schema of an operator of the dispatcher writes to an argument other than ``out=``."""
    overloads: list[Any] = [operator]
    if isinstance(operator, OpOverloadPacket):
        overloads = [getattr(operator, name) for name in operator.overloads()]
    arguments = [argument for overload in overloads for argument in overload._schema.arguments]
    return any(a.alias_info is not None and a.alias_info.is_write and not a.is_out for a in arguments)


def has_inplace_flag(node: fx.Node) -> bool:
    """Say whether `node` is called with ``inplace=True``, by keyword or by position."""
    if node.kwargs.get("inplace") is True:
        return True
    if node.op != "call_function" or True not in [a for a in node.args if isinstance(a, bool)]:
        return False
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return bound.arguments.get("inplace") is True


def operator_name(node: fx.Node) -> str:
    """Return the name of the function or tensor method that `node` calls, such as ``"relu_"``; "" where it has none."""
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", ""))
