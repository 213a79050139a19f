"""One reading of every int8 linear operator: the product, and which steps follow it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from fxquant.graph.calls import arguments_of
from fxquant.lowering.quantized import INT8_LINEARS, product_scale
from fxquant.lowering.quantizer_site import QuantizerSite, quantizer_site


@dataclass(frozen=True)
class LinearSite:
    """
    What an int8 linear node computes; None for a step that its operator does not have.

    codes ``(..., K)``, weight ``(O', K')``, scale ``(O,)`` and bias ``(O,)`` are those of `fxquant.ops.int8_linear`. dtype: of
    the product, before it becomes codes. low ``(O,)``: the scale of the negative codes of a twin-uniform input, `scale` being
    that of the positive ones. gelu: the approximation, "none" or "tanh". residual ``(..., O)``: what is added. quantizer: how
    the result becomes codes. weight_zero_point ``(O,)``: that of an affine weight. row_scale, row_zero_point
    ``(...)``: those of each row of the codes, where each has its own.
    """

    codes: fx.Node
    weight: fx.Node
    scale: fx.Node
    bias: fx.Node
    dtype: torch.dtype
    low: fx.Node | None = None
    gelu: str | None = None
    residual: fx.Node | None = None
    quantizer: QuantizerSite | None = None
    weight_zero_point: fx.Node | None = None
    row_scale: fx.Node | None = None
    row_zero_point: fx.Node | None = None


def linear_site(node: fx.Node) -> LinearSite | None:
    """Return what an int8 linear node computes, None for any other node."""
    if node.target not in INT8_LINEARS:
        return None
    given, quantizer = arguments_of(node), quantizer_site(node)
    return LinearSite(
        *(given["codes"], given["weight"], product_scale(node), given["bias"], given["dtype"]),
        low=given.get("low") if quantizer is None else None,  # else that of the result
        gelu=given.get("approximate"),
        residual=given.get("residual"),
        quantizer=quantizer,
        weight_zero_point=given.get("weight_zero_point"),
        row_scale=given.get("row_scale"),
        row_zero_point=given.get("row_zero_point"),
    )
