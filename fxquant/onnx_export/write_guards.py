"""What a converted graph does at its ends: images that are not finite give NaN, and outputs have names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fxquant.onnx_export.graph_writer import Writer
from fxquant.onnx_export.node_values import Name
from fxquant.ops import check_input, check_values, mark_invalid


def _check_input(w: Writer, x: Any, shape: Any, name: str) -> Any:
    """Return `x`: the file declares the shape of its inputs, and runtimes check it."""
    return x


def _check_values(w: Writer, x: Any, low: Any, high: Any, name: str, refuse: bool, batched: bool) -> Name:
    """Write 0 or NaN for each image. That values lie out of range cannot be said in a file, and goes unsaid there."""
    axes = range(1 if batched else 0, len(w.shape(x)))
    zeros = w.add("Mul", x, 0.0)
    return w.add("ReduceSum", zeros, w.integers(*axes), keepdims=0) if len(axes) else zeros


def _mark_invalid(w: Writer, y: Any, invalid: Any, batched: bool) -> Any:
    if not w.dtype(y).is_floating_point:
        return y
    if batched:
        invalid = w.add("Reshape", invalid, w.integers(-1, *(1,) * (len(w.shape(y)) - 1)))
    elif len(w.shape(invalid)):
        invalid = w.add("ReduceSum", invalid, keepdims=0)
    return w.add("Sub", y, w.cast(invalid, w.dtype(y)))


def _nothing(w: Writer, *_: Any) -> None:
    """Leave out what checks sizes, which the file has as constants."""


TABLE: dict[Any, Callable[..., Any]] = {
    check_input: _check_input,
    check_values: _check_values,
    mark_invalid: _mark_invalid,
    torch._assert: _nothing,
}
