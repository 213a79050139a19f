"""Operators that compute element by element, or along axes."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from fxquant.graph.dataflow import origin
from fxquant.onnx_export.graph_writer import Writer
from fxquant.onnx_export.node_values import Name
from fxquant.ops import dequantize

Axes = int | Sequence[int] | None


def _binary(onnx_operator: str, w: Writer, x: Any, other: Any) -> Name:
    dtype = _common(w, x, other)
    return w.add(onnx_operator, w.cast(x, dtype), w.cast(other, dtype))


def _common(w: Writer, x: Any, other: Any) -> torch.dtype:
    """Return the dtype in which torch computes with both: that of a tensor goes before that of a number of its kind."""
    found: torch.dtype | None = None
    for value in sorted((x, other), key=lambda each: isinstance(each, int | float)):
        example = torch.empty(() if isinstance(value, int | float) else 1, dtype=w.dtype(value))
        found = example.dtype if found is None else torch.result_type(torch.empty(1, dtype=found), example)
    return found or torch.float32


def _divide(w: Writer, x: Any, other: Any, rounding_mode: str | None = None) -> Name:
    if rounding_mode not in (None, "floor"):
        w.refuse(f"rounding_mode={rounding_mode!r}")
    dtype = _common(w, x, other)
    dtype = dtype if dtype.is_floating_point else torch.float32
    quotient = w.add("Div", w.cast(x, dtype), w.cast(other, dtype))
    return quotient if rounding_mode is None else w.add("Floor", quotient)


def _unary(onnx_operator: str, w: Writer, x: Any) -> Name:
    return w.add(onnx_operator, x)


def _square(w: Writer, x: Any) -> Name:
    return _binary("Mul", w, x, x)


def _rsqrt(w: Writer, x: Any) -> Name:
    return w.add("Reciprocal", w.add("Sqrt", x))


def clamp(w: Writer, x: Any, min: Any = None, max: Any = None) -> Name:
    """Write ``x.clamp(min, max)``, of numbers or tensors that broadcast."""
    dtype = w.dtype(x)
    for bound, onnx_operator in ((min, "Max"), (max, "Min")):
        if bound is not None:
            x = w.add(onnx_operator, w.cast(x, dtype), w.cast(bound, dtype))
    return w.tensor(x)


def _where(w: Writer, condition: Any, x: Any, other: Any) -> Name:
    dtype = _common(w, x, other)
    return w.add("Where", condition, w.cast(x, dtype), w.cast(other, dtype))


def _masked_fill(w: Writer, x: Any, mask: Any, value: Any) -> Name:
    return w.add("Where", mask, w.cast(value, w.dtype(x)), x)


def _not_equal(w: Writer, x: Any, other: Any) -> Name:
    return w.add("Not", _binary("Equal", w, x, other))


def _reduce(onnx_operator: str, w: Writer, x: Any, dim: Axes = None, keepdim: bool = False) -> Name:
    axes = () if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    return w.add(onnx_operator, x, w.integers(*axes) if axes else None, keepdims=int(keepdim))


def _vector_norm(w: Writer, x: Any, ord: float = 2, dim: Axes = None, keepdim: bool = False, dtype: Any = None) -> Name:
    if ord != 2 or dtype is not None:
        w.refuse(f"a norm of order {ord}")
    return _reduce("ReduceL2", w, x, dim, keepdim)


def _at_least(w: Writer, x: Any, min: Any) -> Name:
    return clamp(w, x, min)


def _at_most(w: Writer, x: Any, max: Any) -> Name:
    return clamp(w, x, None, max)


def _gelu(w: Writer, x: Any, approximate: str = "none") -> Name:
    return w.add("Gelu", x, approximate=approximate)


def _softmax(
    onnx_operator: str, w: Writer, x: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Name:
    if dim is None:
        w.refuse("softmax along an axis that is not said")
    read = origin(w.node.args[0])
    if read is not None and read.target is dequantize:
        # Else ONNX Runtime computes it by a table of 8 bits, which gives other codes.
        x = w.add("Clip", x, *(float(end) for end in (torch.finfo().min, torch.finfo().max)))
    return w.add(onnx_operator, x if dtype is None else w.cast(x, dtype), axis=dim)


def _relu6(w: Writer, x: Any, inplace: bool = False) -> Name:
    return clamp(w, x, 0.0, 6.0)


def _silu(w: Writer, x: Any, inplace: bool = False) -> Name:
    return _binary("Mul", w, x, w.add("Sigmoid", x))


def _simple(onnx_operator: str, w: Writer, x: Any, inplace: bool = False) -> Name:
    return w.add(onnx_operator, x)


def _hardsigmoid(w: Writer, x: Any, inplace: bool = False) -> Name:
    return w.add("HardSigmoid", x, alpha=1 / 6, beta=0.5)


def _leaky_relu(w: Writer, x: Any, negative_slope: float = 0.01, inplace: bool = False) -> Name:
    return w.add("LeakyRelu", x, alpha=negative_slope)


_BINARY = {
    **{"add": "Add", "sub": "Sub", "mul": "Mul", "maximum": "Max", "minimum": "Min", "pow": "Pow"},
    **{"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"},
    **{"logical_and": "And", "logical_or": "Or"},
}
_UNARY = {
    **{
        "neg": "Neg",
        "abs": "Abs",
        "exp": "Exp",
        "log": "Log",
        "sqrt": "Sqrt",
        "sin": "Sin",
        "cos": "Cos",
        "tanh": "Tanh",
    },
    **{"sigmoid": "Sigmoid", "erf": "Erf", "floor": "Floor", "ceil": "Ceil", "round": "Round", "sign": "Sign"},
    **{"reciprocal": "Reciprocal", "logical_not": "Not", "isnan": "IsNaN", "relu": "Relu"},
}
_REDUCTIONS = {"mean": "ReduceMean", "sum": "ReduceSum", "amax": "ReduceMax", "amin": "ReduceMin"}
_OWN: dict[str, Callable[..., Any]] = {
    **{
        "div": _divide,
        "square": _square,
        "rsqrt": _rsqrt,
        "clamp": clamp,
        "where": _where,
        "masked_fill": _masked_fill,
    },
    **{"ne": _not_equal, "true_divide": _divide, "clamp_min": _at_least, "clamp_max": _at_most},
}
_NAMED: dict[str, Callable[..., Any]] = {
    **{name: functools.partial(_binary, each) for name, each in _BINARY.items()},
    **{name: functools.partial(_unary, each) for name, each in _UNARY.items()},
    **{name: functools.partial(_reduce, each) for name, each in _REDUCTIONS.items()},
    **_OWN,
}
TABLE: dict[Any, Callable[..., Any]] = {
    **_NAMED,  # tensor methods
    **{getattr(torch, name): each for name, each in _NAMED.items() if hasattr(torch, name)},
    **{
        getattr(operator, n): _NAMED[n] for n in ("add", "sub", "mul", "pow", "neg", "eq", "ne", "lt", "le", "gt", "ge")
    },
    operator.truediv: _divide,
    torch.linalg.vector_norm: _vector_norm,
    F.gelu: _gelu,
    F.softmax: functools.partial(_softmax, "Softmax"),
    F.log_softmax: functools.partial(_softmax, "LogSoftmax"),
    F.relu: functools.partial(_simple, "Relu"),
    F.hardswish: functools.partial(_simple, "HardSwish"),
    F.mish: functools.partial(_simple, "Mish"),
    F.relu6: _relu6,
    F.silu: _silu,
    F.hardsigmoid: _hardsigmoid,
    F.leaky_relu: _leaky_relu,
}
