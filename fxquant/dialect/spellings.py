"""The one spelling of each operator, and the others that mean the same."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxquant.graph.attributes import tensor_of

Spelling = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


# Every other spelling of an operator -> its canonical function. Strings are tensor methods.
SPELLINGS: dict[Any, Callable[..., Any]] = {
    operator.matmul: torch.matmul,
    torch.bmm: torch.matmul,
    torch.mm: torch.matmul,
    "matmul": torch.matmul,
    "bmm": torch.matmul,
    "mm": torch.matmul,
    "__matmul__": torch.matmul,
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
_ALIASES = {"mat2": "other", "tensor2": "other", "self": "input"}


_IGNORED = ("_stacklevel", "cudnn_enable")


_ORDERS: dict[Any, tuple[str, ...]] = {
    torch.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps", "cudnn_enable"),
    F.softmax: ("input", "dim", "_stacklevel", "dtype"),
    torch.softmax: ("input", "dim", "dtype"),
    "softmax": ("input", "dim", "dtype"),
}


_ARITHMETIC = {operator.add, operator.mul, operator.sub, operator.truediv}


def respelling(node: fx.Node) -> Spelling | None:
    """Return the canonical ``(target, args, kwargs)`` of `node`; None where it has these already, or has no canonical form."""
    if node.op not in ("call_function", "call_method"):
        return None
    target = SPELLINGS.get(node.target, node.target)
    spelling: Spelling | None = None
    if target in _ARITHMETIC:
        # alpha= and rounding_mode= change the meaning, so such calls keep their spelling.
        spelling = (target, node.args, {}) if len(node.args) == 2 and not node.kwargs else None
    elif target in SIGNATURES:
        spelling = _canonical_arguments(node, target)
    return None if spelling == (node.target, node.args, node.kwargs) else spelling


def _canonical_arguments(node: fx.Node, target: Callable[..., Any]) -> Spelling | None:
    positional, keywords = SIGNATURES[target]
    names = tuple(name for name, _ in (*positional, *keywords))
    given = dict(zip(_ORDERS.get(node.target, names), node.args, strict=False))
    given |= {_ALIASES.get(name, name): value for name, value in node.kwargs.items()}
    if not set(given) <= {*names, *_IGNORED} or any(d is _NONE and n not in given for n, d in positional):
        return None
    if target is F.conv2d:
        given["padding"] = _explicit_padding(given)
    args = [given.get(name, default) for name, default in positional]
    while len(args) > 1 and positional[len(args) - 1][1] is not _NONE and args[-1] == positional[len(args) - 1][1]:
        args.pop()
    kwargs = {n: given[n] for n, default in keywords if n in given and given[n] != default}
    return target, tuple(args), kwargs


def _explicit_padding(given: dict[str, Any]) -> Any:
    """Return the padding in numbers where it is given by name; "same" keeps its name where the sides would differ."""
    padding, weight = given.get("padding", 0), given["weight"]
    if padding == "valid":
        return 0
    if padding != "same" or not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return padding
    dilation = given.get("dilation", 1)
    spans = [(k - 1) * d for k, d in zip(tensor_of(weight).shape[2:], pair(dilation), strict=True)]
    return padding if any(span % 2 for span in spans) else tuple(span // 2 for span in spans)


def pair(value: Any) -> tuple[int, int]:
    """Return a number along both axes of an image, as two."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
