"""Spell each operator one way and drop what does nothing at inference."""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.rewrite import edit, inherit_meta

# Every other spelling of an operator -> its canonical function. Strings are tensor methods.
SPELLINGS: dict[Any, Callable[..., Any]] = {
    operator.matmul: torch.matmul,
    torch.bmm: torch.matmul,
    "matmul": torch.matmul,
    "bmm": torch.matmul,
    "__matmul__": torch.matmul,
    torch.conv2d: F.conv2d,
    torch.softmax: F.softmax,
    "softmax": F.softmax,
    torch.layer_norm: F.layer_norm,
    torch.add: operator.add,
    "add": operator.add,
    torch.mul: operator.mul,
    "mul": operator.mul,
    torch.sub: operator.sub,
    "sub": operator.sub,
    torch.div: operator.truediv,
    "div": operator.truediv,
}

# Canonical function -> its parameters: positional ones, then those kept as keywords, with their defaults.
_NONE = inspect.Parameter.empty
SIGNATURES: dict[Callable[..., Any], tuple[tuple[tuple[str, Any], ...], tuple[tuple[str, Any], ...]]] = {
    F.linear: ((("input", _NONE), ("weight", _NONE), ("bias", None)), ()),
    F.conv2d: (
        (
            *(("input", _NONE), ("weight", _NONE), ("bias", None), ("stride", 1), ("padding", 0)),
            *(("dilation", 1), ("groups", 1)),
        ),
        (),
    ),
    F.layer_norm: (
        (("input", _NONE), ("normalized_shape", _NONE), ("weight", None), ("bias", None), ("eps", 1e-5)),
        (),
    ),
    F.gelu: ((("input", _NONE),), (("approximate", "none"),)),
    F.softmax: ((("input", _NONE), ("dim", None)), (("dtype", None),)),
    torch.matmul: ((("input", _NONE), ("other", _NONE)), ()),
    F.scaled_dot_product_attention: (
        (("query", _NONE), ("key", _NONE), ("value", _NONE), ("attn_mask", None)),
        (("dropout_p", 0.0), ("is_causal", False), ("scale", None), ("enable_gqa", False)),
    ),
}
# Names other spellings use for the same parameter, and the order of positional parameters where it differs.
_ALIASES = {"mat2": "other", "tensor": "input", "self": "input", "normalized_shape": "normalized_shape"}
_ORDERS: dict[Any, tuple[str, ...]] = {
    F.softmax: ("input", "dim", "_stacklevel", "dtype"),
    torch.softmax: ("input", "dim", "dtype"),
    "softmax": ("input", "dim", "dtype"),
}
_ARITHMETIC = {operator.add, operator.mul, operator.sub, operator.truediv}
_DROPOUT = {F.dropout, torch.dropout, F.dropout2d, F.alpha_dropout}


def canonicalize(gm: fx.GraphModule) -> PassResult:
    """
    Bring a traced graph into the functional dialect.

    Before:  x @ y          x.softmax(dim=-1)     F.linear(x, weight=w, bias=b)     F.dropout(x, 0.1, False)
    Becomes: matmul(x, y)   softmax(x, -1)        F.linear(x, w, b)                 x
    """

    def change(module: fx.GraphModule) -> bool:
        changed = [_canonicalize_node(node) for node in list(module.graph.nodes)]
        return any(changed)

    return edit(gm, change)


def _canonicalize_node(node: fx.Node) -> bool:
    if node.op not in ("call_function", "call_method"):
        return False
    if _does_nothing(node):
        node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
        node.graph.erase_node(node)
        return True
    if node.target is torch._assert:
        return _clean_message(node)
    target = SPELLINGS.get(node.target, node.target)
    if target in _ARITHMETIC:
        return _respell_arithmetic(node, target)
    if target not in SIGNATURES:
        return False
    args, kwargs = _canonical_arguments(node, target)
    if node.target is target and node.args == args and node.kwargs == kwargs:
        return False
    _replace(node, target, args, kwargs)
    return True


def _does_nothing(node: fx.Node) -> bool:
    if node.target in _DROPOUT:
        arguments = dict(zip(("input", "p", "training", "inplace"), node.args, strict=False)) | dict(node.kwargs)
        return arguments.get("training", arguments.get("train", True)) is False or bool(arguments.get("p") == 0.0)
    return node.op == "call_method" and node.target in ("detach",)


def _respell_arithmetic(node: fx.Node, target: Any) -> bool:
    # alpha= and rounding_mode= change the meaning, so such calls keep their spelling.
    if node.target is target or node.kwargs or len(node.args) != 2:
        return False
    _replace(node, target, node.args, {})
    return True


def _canonical_arguments(node: fx.Node, target: Callable[..., Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    positional, keywords = SIGNATURES[target]
    order = _ORDERS.get(node.target, tuple(name for name, _ in (*positional, *keywords)))
    given = dict(zip(order, node.args, strict=False))
    given |= {_ALIASES.get(name, name): value for name, value in node.kwargs.items()}
    args = [given.get(name, default) for name, default in positional]
    while len(args) > 1 and positional[len(args) - 1][1] is not _NONE and args[-1] == positional[len(args) - 1][1]:
        args.pop()
    kwargs = {n: given[n] for n, default in keywords if n in given and given[n] != default}
    return tuple(args), kwargs


def _clean_message(node: fx.Node) -> bool:
    # Messages were formatted while sizes were proxies: "Input height (Proxy(getitem_2)) doesn't match model (224)."
    message: str = str(node.args[1]) if len(node.args) > 1 else ""
    cleaned = re.sub(r"\s*\(?Proxy\([^)]*\)\)?", "", message)
    if cleaned == message:
        return False
    node.args = (node.args[0], cleaned)
    return True


def _replace(node: fx.Node, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with node.graph.inserting_before(node):
        new = node.graph.call_function(target, args, kwargs)
    inherit_meta(new, node)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)
