"""One reading of every int8 linear operator: the product, and which steps follow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxquant.ops import (
    int8_linear,
    int8_linear_add,
    int8_linear_gelu_quantize,
    int8_linear_gelu_quantize_twin,
    int8_linear_twin,
    int8_linear_twin_add,
)


@dataclass(frozen=True)
class LinearSite:
    """
    The arguments of an int8 linear node; those of the operators that it does not have are None.

    low: the scale of the negative codes of a twin-uniform input. gelu: the approximation. quantizer: the arguments of
    `fxquant.kernels.cpu.Quantizer`, nodes for its tensors. weight_zero_point: of an affine weight.
    """

    codes: fx.Node
    weight: fx.Node
    scale: fx.Node
    bias: fx.Node
    dtype: torch.dtype
    low: fx.Node | None = None
    gelu: str | None = None
    residual: fx.Node | None = None
    quantizer: tuple[Any, ...] | None = None
    weight_zero_point: fx.Node | None = None


def linear_site(node: fx.Node) -> LinearSite | None:
    """Return what an int8 linear node computes, None for any other node."""
    if node.target not in _READERS:
        return None
    codes, weight, scale, *rest = node.args
    return LinearSite(codes, weight, scale, **_READERS[node.target](*rest))  # type: ignore[arg-type]


def _plain(bias: Any, weight_zero_point: Any, input_zero_point: Any, dtype: Any, pad_rows: Any) -> dict[str, Any]:
    return {"bias": bias, "dtype": dtype, "weight_zero_point": weight_zero_point}


def _add(bias: Any, residual: Any, dtype: Any, pad_rows: Any) -> dict[str, Any]:
    return {"bias": bias, "dtype": dtype, "residual": residual}


def _twin(low: Any, bias: Any, dtype: Any, pad_rows: Any) -> dict[str, Any]:
    return {"bias": bias, "dtype": dtype, "low": low}


def _twin_add(low: Any, bias: Any, residual: Any, dtype: Any, pad_rows: Any) -> dict[str, Any]:
    return {"bias": bias, "dtype": dtype, "low": low, "residual": residual}


def _codes(bias: Any, gelu: Any, dtype: Any, pad_rows: Any, *quantizer: Any) -> dict[str, Any]:
    scale, zero_point, qmin, qmax, noise = (*quantizer, None)[:5]
    steps = (scale, zero_point, None, None, noise, qmin, qmax)
    return {"bias": bias, "dtype": dtype, "gelu": gelu, "quantizer": steps}


def _twin_codes(bias: Any, gelu: Any, dtype: Any, pad_rows: Any, *quantizer: Any) -> dict[str, Any]:
    high, low, split, qmin, qmax, noise = (*quantizer, None)[:6]
    return {"bias": bias, "dtype": dtype, "gelu": gelu, "quantizer": (high, None, low, split, noise, qmin, qmax)}


# What follows the codes, the weight and the scale in the arguments of each operator.
_READERS: dict[Any, Callable[..., dict[str, Any]]] = {
    int8_linear: _plain,
    int8_linear_add: _add,
    int8_linear_twin: _twin,
    int8_linear_twin_add: _twin_add,
    int8_linear_gelu_quantize: _codes,
    int8_linear_gelu_quantize_twin: _twin_codes,
}
