"""Layer norms and their relatives, known by what they compute: a value over the root of a mean or sum of its own squares."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import fx

from fxquant.graph.dataflow import is_parameter, origin

FUNCTIONS = (F.layer_norm, F.rms_norm)
_AFFINE = (operator.mul, operator.add, torch.mul, torch.add)
_ROOTS = ("rsqrt", "sqrt", "pow", "std")
_MEANS = ("mean", "sum", "var", "var_mean", "std")
_POINTWISE = (
    *("add", "sub", "mul", "truediv", "div", "pow", "square", "abs", "neg", "sqrt", "rsqrt", "reciprocal", "getitem"),
    *("clamp", "clamp_min", "maximum", "to", "float", "type_as", "expand", "unsqueeze"),
)


def norm_of(value: object) -> fx.Node | None:
    """Return what is normalised where `value`, moved or not, is a norm over its own values, times and plus parameters."""
    node = origin(value)
    while node is not None and node.target not in FUNCTIONS:
        found = _divided(node)
        if found is not None or node.target not in _AFFINE or len(node.args) != 2:
            return found
        one, other = node.args
        node = origin(one if _is_fixed(other) else other if _is_fixed(one) else None)
    return None if node is None else origin(node.args[0])


def _is_fixed(value: object) -> bool:
    return isinstance(value, int | float) or is_parameter(value)


def _divided(node: fx.Node) -> fx.Node | None:
    """Return the value that `node` divides by, or multiplies by the inverse of, the root of a mean of its own values."""
    if _name(node) not in ("mul", "truediv", "div") or len(node.args) != 2:
        return None
    one, other = node.args
    pairs = ((one, other), (other, one)) if _name(node) == "mul" else ((one, other),)
    for value, root in pairs:
        if isinstance(value, fx.Node) and isinstance(root, fx.Node) and _is_root_of(root, value):
            return origin(value.args[0] if _name(value) == "sub" else value)
    return None


def _is_root_of(root: fx.Node, value: fx.Node) -> bool:
    chain = list(_computed_by(root))
    means = [n for n in chain if _name(n) in _MEANS]
    if not means or not any(_name(n) in _ROOTS for n in chain[: chain.index(means[0]) + 1]):
        return False
    own = {value, origin(value), *(a for a in value.all_input_nodes if _name(value) == "sub")}
    return any(n in own for mean in means for read in mean.all_input_nodes for n in (read, *_computed_by(read)))


def _computed_by(node: fx.Node) -> Iterator[fx.Node]:
    """Yield `node` and what it is computed from by pointwise operators and means, the nearest first."""
    seen, queue = {node}, [node]
    while queue:
        current = queue.pop(0)
        yield current
        for read in current.all_input_nodes if _name(current) in (*_POINTWISE, *_MEANS) else ():
            if read not in seen:
                seen.add(read)
                queue.append(read)


def _name(node: fx.Node) -> str:
    if node.op not in ("call_function", "call_method"):
        return ""
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", ""))
