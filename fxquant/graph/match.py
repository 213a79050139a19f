"""
Patterns over graph nodes, written as data: the shape of the graph on the left of a rewrite rule.

>>> pattern = Call(F.linear, Call(dequantize, ...), Var("weight"), Var("bias", optional=True))

A `Call` matches a ``call_function`` or ``call_method`` node whose positional arguments match its own; ``...`` as the last
argument matches whatever is left, keywords too. Canonical graphs spell arguments one way: what stands as a keyword there is
a setting other than the default, so a call with keywords is matched only by a pattern that ends in ``...``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

from torch import fx

Match = dict[str, Any]


@dataclass(frozen=True)
class Var:
    """
    Match any argument and keep it as `name`; where a pattern has `name` twice, both arguments have to be the same.

    optional: match an absent argument too, and keep None. where: what has to hold for the argument.
    """

    name: str
    optional: bool = False
    where: Callable[[Any], bool] | None = None


class Call:
    """Match a call of one of `targets` (functions, or names of tensor methods); `name` keeps the node itself."""

    def __init__(
        self,
        targets: Callable[..., Any] | str | tuple[Callable[..., Any] | str, ...],
        *args: Call | Var | EllipsisType | Any,
        name: str | None = None,
    ) -> None:
        self.targets = targets if isinstance(targets, tuple) else (targets,)
        self.args = args
        self.name = name


def match(pattern: Call, node: fx.Node) -> Match | None:
    """Return the captures of `pattern` at `node`, with the node itself as ``root``; None where it does not match."""
    captures: Match = {"root": node}
    return captures if _match_call(pattern, node, captures) else None


def _match_call(pattern: Call, node: object, captures: Match) -> bool:
    if not isinstance(node, fx.Node) or node.op not in ("call_function", "call_method"):
        return False
    if node.target not in pattern.targets:
        return False
    wanted: tuple[Any, ...] = pattern.args
    if wanted and wanted[-1] is Ellipsis:
        wanted = wanted[:-1]
    elif len(node.args) > len(wanted) or node.kwargs:
        return False
    if pattern.name is not None:
        captures[pattern.name] = node
    return all(_match_argument(p, node.args, i, captures) for i, p in enumerate(wanted))


def _match_argument(pattern: Any, args: tuple[Any, ...], i: int, captures: Match) -> bool:
    if isinstance(pattern, Var):
        if i >= len(args) and not pattern.optional:
            return False
        value = args[i] if i < len(args) else None
        if pattern.name in captures and not _same(captures[pattern.name], value):
            return False
        captures[pattern.name] = value
        return pattern.where is None or pattern.where(value)
    if i >= len(args):
        return False
    if isinstance(pattern, Call):
        return _match_call(pattern, args[i], captures)
    return bool(args[i] == pattern)


def _same(one: Any, other: Any) -> bool:
    return one is other if isinstance(one, fx.Node) or isinstance(other, fx.Node) else bool(one == other)
