"""
Activation functions, known by what they compute: GELU and its relatives, however they are spelled, and their least value.

``x * sigmoid(1.702 * x)``, ``0.5 * x * (1 + tanh(...))`` and `F.silu` are functions of one value. Such a function is sampled
on an axis, and its shape says what it is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.graph.attributes import tensor_of
from fxquant.graph.dataflow import origin
from fxquant.numerics.arithmetic import GELU_MINIMUM

_NAMES = (
    *("sigmoid", "tanh", "erf", "erfc", "exp", "expm1", "log1p", "pow", "square", "sqrt", "abs", "neg", "reciprocal"),
    *("add", "sub", "mul", "div", "clamp", "relu", "softplus", "logsigmoid", "where", "ndtr"),
)
_FUNCTIONS = {
    *(getattr(space, name) for space in (torch, F, torch.special) for name in _NAMES if hasattr(space, name)),
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.neg, torch.special.expit),
    *(F.gelu, F.silu, F.mish, F.relu6, F.hardswish, F.hardsigmoid, F.hardtanh, F.elu, F.celu, F.selu, F.leaky_relu),
    *(operator.gt, operator.ge, operator.lt, operator.le),
}
_CASTS = ("to", "float", "type_as", "contiguous", "clone")
_PRODUCTS = (operator.mul, torch.mul)
_GATES = (torch.sigmoid, F.sigmoid, F.relu, torch.relu, "sigmoid", "relu")
_LONGEST = 24  # operators that one function is spelled with
_END = 30.0  # from where on a function is taken to be what it is at infinity
_POINTS = 60_001


class Activation(NamedTuple):
    """
    A function that is zero at zero and far below it, negative in between, and grows without bound above.

    minimum: its least value. source: what it is a function of.
    """

    minimum: float
    source: fx.Node


def activation_of(value: object) -> Activation | None:
    """Return what is known of the activation function, such as GELU, that gives `value`, moved or not; None where none does."""
    node = origin(value)
    if node is None or not _is_pointwise(node):
        return None
    if node.target is F.gelu and not node.kwargs and isinstance(node.args[0], fx.Node):
        return Activation(GELU_MINIMUM, node.args[0])  # to the bit, as published scales have it
    for source in _sources(node):
        sampled = _sample(node, source)
        minimum = None if sampled is None else _least_value(sampled)
        if minimum is not None:
            return Activation(minimum, source)
    return None


def is_gated(value: object) -> bool:
    """Say whether `value`, moved or not, is a product of the result of an activation function and another computed value."""
    node = origin(value)
    if node is None or activation_of(node) is not None:
        return False
    if node.target is F.glu:
        return True
    if node.target not in _PRODUCTS or len(node.args) != 2:
        return False
    return any(_is_gate(one) and _is_computed(other) for one, other in (node.args, node.args[::-1]))


def _is_gate(value: object) -> bool:
    source = origin(value)
    return source is not None and (source.target in _GATES or activation_of(source) is not None)


def _is_computed(value: object) -> bool:
    source = origin(value)
    return source is not None and source.op != "get_attr"


def _sources(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the values, the nearest first, that `node` may be a function of by elementwise operators."""
    seen, stack = {node: None}, [node]
    while stack and len(seen) <= _LONGEST:
        current = stack.pop(0)
        if current is not node:
            yield current
        for read in current.all_input_nodes if _is_pointwise(current) else ():
            if read not in seen and _constant(read) is None:
                seen[read] = None
                stack.append(read)


def _is_pointwise(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _CASTS or str(node.target).removesuffix("_") in _NAMES
    return node.op == "call_function" and node.target in _FUNCTIONS


def _constant(value: object) -> Any:
    """Return a number, also one that stands in a tensor; None for anything else."""
    if isinstance(value, fx.Node):
        if value.op != "get_attr":
            return None
        tensor = tensor_of(value).detach()
        return float(tensor) if tensor.numel() == 1 else None
    return value if not isinstance(value, Tensor) else None


def _sample(node: fx.Node, source: fx.Node) -> Tensor | None:
    """Return `node` as a function of `source`, ``(points,)`` float64; None where it reads anything else."""
    known: dict[fx.Node, Any] = {source: torch.linspace(-_END, _END, _POINTS, dtype=torch.float64)}

    def value(read: fx.Node) -> Any:
        if read not in known:
            constant = _constant(read)
            known[read] = _evaluate(read, value, len(known)) if constant is None else constant
        return known[read]

    try:
        found = value(node)
    except _OtherValueError:
        return None
    return found if isinstance(found, Tensor) and found.shape == (_POINTS,) else None


class _OtherValueError(Exception):
    """A value that is no function of the source."""


def _evaluate(node: fx.Node, value: Callable[[fx.Node], Any], count: int) -> Any:
    if not _is_pointwise(node) or count > _LONGEST:
        raise _OtherValueError
    if node.target in _CASTS:
        return fx.map_arg(node.args[0], value)
    args, kwargs = fx.map_arg((node.args, node.kwargs), value)
    if isinstance(node.target, str):
        return getattr(args[0], node.target.removesuffix("_"))(*args[1:], **kwargs)
    return node.target(*args, **{name: given for name, given in kwargs.items() if name != "inplace"})


def _least_value(y: Tensor) -> float | None:
    """Return the least of the samples ``(points,)`` of a function, None where the function has not the shape of GELU."""
    minimum, below, zero, end = (float(v) for v in (y.min(), y[0], y[len(y) // 2], y[-1]))
    vanishes = abs(below) < 1e-3 * abs(minimum) and abs(zero) < 1e-6
    grows = end > 10 * abs(minimum) and bool((y[3 * len(y) // 4 :].diff() > 0).all())
    return minimum if minimum < 0 and vanishes and grows else None
