"""Replace in-place operators by those that return a new value."""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.dialect.mutation import INPLACE_OPERATORS, has_inplace_flag, mutates, operator_name
from fxquant.errors import UnsupportedGraphError
from fxquant.graph.meta import inherit_meta
from fxquant.graph.rewrite import blame, edit, location

_CASTS = ("to", "type", "float", "half", "bfloat16", "double", "type_as")
# Operators, by name, whose result may share memory with their first argument.
_VIEWS = {
    *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "permute", "transpose", "swapaxes"),
    *("t", "movedim", "moveaxis", "unsqueeze", "squeeze", "expand", "expand_as", "narrow", "select", "unfold"),
    *("diagonal", "chunk", "split", "tensor_split", "unbind", "getitem", "contiguous", "detach", "dropout", *_CASTS),
}
_VIEW_ATTRIBUTES = ("T", "mT", "H", "mH", "data", "real", "imag")


def functionalize(gm: fx.GraphModule) -> PassResult:
    """
    Let every operator return a new value, so that later passes may move, drop and share nodes.

    Before:  y = x.add_(1)      relu_(x)          F.relu(x, inplace=True)     x += 1
    Becomes: y = x.add(1)       y = relu(x)       F.relu(x, inplace=False)    x1 = x + 1

    What reads `x` afterwards reads the new value. Raises `UnsupportedGraphError` where that would not be the same: `x` is a
    parameter, or shares memory with a view that is read later.
    """

    def change(module: fx.GraphModule) -> bool:
        modified = False
        for node in list(module.graph.nodes):
            if mutates(node):
                with blame("functionalize", node):
                    _replace(module, node)
                modified = True
        return modified

    return edit(gm, change)


def _replace(gm: fx.GraphModule, node: fx.Node) -> None:
    changed = node.args[0] if node.args else node.kwargs.get("input")
    new_call = _out_of_place(node)
    if new_call is None or not isinstance(changed, fx.Node):
        raise _refusal(node, f"it changes {changed}, and has no form that returns a new value")
    later: list[fx.Node] = []
    if not _is_size(changed):
        order = {n: i for i, n in enumerate(gm.graph.nodes)}
        later = [user for user in changed.users if order[user] > order[node]]
        _check_aliases(node, changed, order)
    op, target, args, kwargs = new_call
    with gm.graph.inserting_after(node):
        new = gm.graph.create_node(op, target, args, kwargs)
    inherit_meta(new, node)
    result = new
    # An in-place operator keeps the dtype of what it changes; that of a new value follows from both operands.
    if len(node.all_input_nodes) > 1 and _mixes_dtypes(gm):
        with gm.graph.inserting_after(new):
            result = gm.graph.call_method("type_as", (new, changed))
        inherit_meta(result, node)
    node.replace_all_uses_with(result)
    for user in later:
        user.replace_input_with(changed, result)
    gm.graph.erase_node(node)


def _out_of_place(node: fx.Node) -> tuple[str, Any, tuple[Any, ...], dict[str, Any]] | None:
    """Return the call that computes what `node` writes, None where there is no such operator."""
    if node.kwargs.get("out") is not None or node.target is operator.setitem:
        return None
    if node.target in INPLACE_OPERATORS:
        return node.op, INPLACE_OPERATORS[node.target], node.args, dict(node.kwargs)
    if has_inplace_flag(node):
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
        bound.arguments["inplace"] = False
        return node.op, node.target, bound.args, bound.kwargs
    name = operator_name(node)[:-1]
    if node.op == "call_method":
        return (node.op, name, node.args, dict(node.kwargs)) if hasattr(Tensor, name) else None
    function = getattr(torch, name, None) or getattr(F, name, None)
    return (node.op, function, node.args, dict(node.kwargs)) if function is not None else None


def _check_aliases(node: fx.Node, changed: fx.Node, order: dict[fx.Node, int]) -> None:
    """Refuse where anything but `changed` itself would see the change."""
    group, stack = {changed}, [changed]
    while stack:
        member = stack.pop()
        related = [u for u in member.users if _shares_memory(u) and u.args and u.args[0] is member and u is not node]
        if _shares_memory(member):
            related += [a for a in member.args[:1] if isinstance(a, fx.Node)]
        for other in related:
            if other not in group and order[other] < order[node]:
                group.add(other)
                stack.append(other)
    if any(member.op == "get_attr" for member in group):
        raise _refusal(node, "it changes a parameter or buffer of the model")
    for alias in group - {changed}:
        readers = [u for u in alias.users if order[u] > order[node]]
        if readers:
            raise _refusal(
                node, f"node {readers[0].name!r} reads {alias.name!r} afterwards, which may share memory with it"
            )


def _shares_memory(node: fx.Node) -> bool:
    if node.target is getattr:
        return node.args[1] in _VIEW_ATTRIBUTES
    return node.op in ("call_function", "call_method") and operator_name(node) in _VIEWS


def _is_size(node: object) -> bool:
    """Say whether `node` is a number computed from shapes: ``n += 1`` makes a new number and changes none."""
    if not isinstance(node, fx.Node):
        return True
    if node.op == "call_method":
        return node.target in ("size", "numel", "dim")
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim")
    return node.op == "call_function" and _from_operator(node) and all(_is_size(a) for a in node.args)


def _from_operator(node: fx.Node) -> bool:
    return getattr(node.target, "__module__", "") == "_operator"


def _mixes_dtypes(gm: fx.GraphModule) -> bool:
    dtypes = {t.dtype for t in (*gm.parameters(), *gm.buffers()) if t.is_floating_point()}
    return len(dtypes) > 1 or any(n.op == "call_method" and n.target in _CASTS for n in gm.graph.nodes)


def _refusal(node: fx.Node, reason: str) -> UnsupportedGraphError:
    return UnsupportedGraphError(
        f"the in-place operator {operator_name(node)!r} at node {node.name!r}{location(node)} cannot be replaced: {reason}; "
        "write that line without changing a tensor in place"
    )
