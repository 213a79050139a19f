"""Quantised operands in a graph: which nodes stand for codes, and with what scale."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from fxquant.graph.attributes import tensor_of
from fxquant.graph.meta import value_of
from fxquant.numerics.arithmetic import storage_offset
from fxquant.ops import (
    dequantize,
    dequantize_log2,
    dequantize_twin,
    fake_quantize_summed_twin,
    int8_linear,
    int8_linear_add,
    int8_linear_gelu_quantize,
    int8_linear_gelu_quantize_twin,
    int8_linear_twin,
    int8_linear_twin_add,
    int8_matmul,
    int8_matmul_twin,
)

INT8_LINEARS = (
    int8_linear,
    int8_linear_add,
    int8_linear_gelu_quantize,
    int8_linear_gelu_quantize_twin,
    int8_linear_twin,
    int8_linear_twin_add,
)


INT8_PRODUCTS = (*INT8_LINEARS, int8_matmul, int8_matmul_twin)


class Quantized(NamedTuple):
    """The arguments of the `dequantize` node that stands for one quantised operand."""

    codes: fx.Node
    scale: fx.Node
    zero_point: fx.Node | None
    qmin: int
    qmax: int
    axis: int | None


class QuantizedTwin(NamedTuple):
    """The arguments of the `dequantize_twin` node that stands for one twin-uniform operand."""

    codes: fx.Node
    high: fx.Node
    low: fx.Node
    split: fx.Node
    qmin: int
    qmax: int


def quantized(value: object) -> Quantized | None:
    """Return how `value` was quantised, or None where it is float."""
    if not isinstance(value, fx.Node) or value.target is not dequantize:
        return None
    arguments: tuple[Any, ...] = (*value.args, None)[:6]
    return Quantized(*arguments)


def quantized_twin(value: object) -> QuantizedTwin | None:
    """Return how `value` was quantised, or None where it is no twin-uniform operand."""
    if not isinstance(value, fx.Node) or value.target is not dequantize_twin:
        return None
    return QuantizedTwin(*value.args)  # type: ignore[arg-type]


_DEQUANTIZED = (dequantize, dequantize_log2, dequantize_twin, fake_quantize_summed_twin)


def is_quantized(value: object) -> bool:
    """Say whether `value` stands for codes of any kind."""
    return isinstance(value, fx.Node) and value.target in _DEQUANTIZED


def rank_of(value: object) -> int | None:
    known = value_of(value)
    return known.dim() if known is not None else None


def stored_zero_point(operand: Quantized) -> Tensor | None:
    """Return the zero point of the codes as they are stored in int8 (int32), None where it is zero."""
    offset = storage_offset(operand.qmax)
    if operand.zero_point is None and offset == 0:
        return None
    zero_point = tensor_of(operand.zero_point) if operand.zero_point is not None else None
    if zero_point is None:
        zero_point = torch.zeros_like(tensor_of(operand.scale), dtype=torch.int32)
    return zero_point - offset
