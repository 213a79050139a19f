"""Quantised operands in a graph: which nodes stand for codes, and with what scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from fxquant.config.kinds import dequantizers
from fxquant.graph.attributes import tensor_of
from fxquant.graph.calls import arguments_of
from fxquant.graph.meta import value_of
from fxquant.kernels.cpu.schemas import KERNELS
from fxquant.lowering.quantizer_site import QuantizerSite, quantizer_site
from fxquant.numerics.arithmetic import storage_offset
from fxquant.ops import (
    attention,
    attention_quantize,
    dequantize,
    dequantize_twin,
    float8_linear,
    int8_linear,
    int8_linear_add,
    int8_linear_gelu_quantize,
    int8_linear_gelu_quantize_twin,
    int8_linear_twin,
    int8_linear_twin_add,
    int8_matmul,
    int8_matmul_twin,
)
from fxquant.ops.onednn_linear import onednn_linear

INT8_LINEARS = (
    int8_linear,
    int8_linear_add,
    int8_linear_gelu_quantize,
    int8_linear_gelu_quantize_twin,
    int8_linear_twin,
    int8_linear_twin_add,
)
INT8_PRODUCTS = (*INT8_LINEARS, int8_matmul, int8_matmul_twin)
# What an operator calls the operands of its product.
_FACTORS: dict[Any, tuple[str, ...]] = {
    **dict.fromkeys((*INT8_LINEARS, onednn_linear, float8_linear), ("codes", "weight")),
    **dict.fromkeys((int8_matmul, int8_matmul_twin), ("a", "b")),
    **dict.fromkeys((KERNELS.cpu_gemm.default, KERNELS.cpu_gemm_tokens.default), ("codes", "packed")),
    **dict.fromkeys((attention, attention_quantize, KERNELS.cpu_attention.default), ("q", "k", "v")),
}


def factors(product: fx.Node) -> tuple[Any, ...]:
    """Return what a product multiplies, in order: codes and weight, or queries, keys and values; of torch's, all arguments."""
    if product.target not in _FACTORS:
        return product.args
    given = arguments_of(product)
    return tuple(given[name] for name in _FACTORS[product.target])


def product_scale(product: fx.Node) -> fx.Node:
    """Return the scale of an int8 product, that of one operand times that of the other; of two ranges, that of the high one."""
    given = arguments_of(product)
    scale: fx.Node = given["scale"] if "scale" in given else given["high"]
    return scale


def quantized(value: object) -> QuantizerSite | None:
    """Return how `value` was quantised, or None where it is float."""
    return quantizer_site(value) if isinstance(value, fx.Node) and value.target is dequantize else None


def quantized_twin(value: object) -> QuantizerSite | None:
    """Return how `value` was quantised, or None where it is no twin-uniform operand."""
    return quantizer_site(value) if isinstance(value, fx.Node) and value.target is dequantize_twin else None


def is_quantized(value: object) -> bool:
    """Say whether `value` stands for codes of any kind."""
    return isinstance(value, fx.Node) and value.target in dequantizers()


def rank_of(value: object) -> int | None:
    """Return the number of axes of `value`, None where its shape is unknown."""
    known = value_of(value)
    return known.dim() if known is not None else None


def stored_zero_point(operand: QuantizerSite) -> Tensor | None:
    """Return the zero point of the codes as they are stored in int8 (int32), None where it is zero."""
    offset = storage_offset(operand.qmax)
    if operand.zero_point is None and offset == 0:
        return None
    zero_point = tensor_of(operand.zero_point) if operand.zero_point is not None else None
    if zero_point is None:
        zero_point = torch.zeros_like(tensor_of(operand.scale), dtype=torch.int32)
    return zero_point - offset
