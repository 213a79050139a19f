"""What a product on codes needs; lowering passes ask here before they rewrite, the report asks for the reason."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx

from fxquant.graph.attributes import bias_of, window_of
from fxquant.graph.meta import value_of
from fxquant.lowering.float8_site import float8_site
from fxquant.lowering.quantized import is_quantized, quantized, quantized_twin, rank_of, stored_zero_point
from fxquant.lowering.quantizer_site import QuantizerSite
from fxquant.lowering.token_site import token_site
from fxquant.ops import (
    dequantize_log2,
    fake_quantize_adalog,
    fake_quantize_summed_twin,
)

WEIGHT_ONLY = "the weight alone is quantised, and multiplies floats"


def obstacle(node: fx.Node) -> str | None:
    """Return why a product of the QUANTISED stage cannot become one of int8 or of float8 codes, None where it can."""
    if node.target not in (F.linear, F.conv2d, torch.matmul):
        return "simulated: fused attention has no int8 form"
    names = ("left operand", "right operand") if node.target is torch.matmul else ("input", "weight")
    for name, value in zip(names, node.args, strict=False):
        if _is_summed(value):
            return f"simulated: the {name} is twin-uniform as published, which has no int8 form"
        if isinstance(value, fx.Node) and value.target is fake_quantize_adalog:
            return f"simulated: the {name} is a power of a fitted base as published, which has no int8 form"
        if isinstance(value, fx.Node) and value.target is dequantize_log2:
            return f"simulated: the {name} is a power of two, and a product of those is made of shifts, not of int8 products"
        if is_quantized(value) and not any(
            read(value) for read in (quantized, quantized_twin, token_site, float8_site)
        ):
            return f"simulated: codes such as those of the {name} have no int8 form"
        if not _reads_codes(value):
            return (
                "the weight alone is quantised, and multiplies floats"
                if name == "input"
                else f"simulated: the {name} is float"
            )
    if not all(is_quantized(value) for value in node.args[:2]):
        return "simulated: an operand is cast after it was quantised"
    float8 = [float8_site(value) is not None for value in node.args[:2]]
    if any(float8) and not all(float8):
        return "simulated: e4m3 codes of one operand and integers of the other have no product"
    return _matmul_obstacle(node) if node.target is torch.matmul else _weight_obstacle(node)


def _weight_obstacle(node: fx.Node) -> str | None:
    x, weight = (quantized(value) or float8_site(value) for value in node.args[:2])
    if weight is None:
        return "simulated: a twin-uniform weight has no int8 form"
    value = value_of(node)
    if node.target is F.conv2d and value is not None and value.dim() != 4:
        return "simulated: a convolution of one image without a batch axis"
    groups = window_of(node).groups if node.target is F.conv2d else 1
    if groups != 1:
        return f"simulated: a convolution in {groups} groups is not one matrix product"
    bias = bias_of(node)
    if bias is not None and (not isinstance(bias, fx.Node) or bias.op != "get_attr"):
        return "simulated: the bias is computed at run time"
    if x is None and isinstance(weight, QuantizerSite) and stored_zero_point(weight) is not None:
        kind = "a twin-uniform input" if token_site(node.args[0]) is None else "an input with a scale per token"
        return f"simulated: {kind} and a weight with zero points have no int8 form"
    if x is not None and x.axis is not None:
        return "simulated: an input scale per channel does not factor out of the product"
    if weight.axis not in (None, 0):
        return "simulated: a weight scale along the input channels does not factor out of the product"
    return None


def _reads_codes(value: object) -> bool:
    """Say whether `value` was quantised; beside a float operand of a bfloat16 model it was then cast."""
    if isinstance(value, fx.Node) and value.target == "to":
        return is_quantized(value.args[0])
    return is_quantized(value)


def _is_summed(value: object) -> bool:
    return isinstance(value, fx.Node) and value.target is fake_quantize_summed_twin


def _matmul_obstacle(node: fx.Node) -> str | None:
    a, b = node.args[:2]
    if quantized_twin(b) is not None:
        return "simulated: a twin-uniform right operand has no int8 form"
    ranks = [rank_of(value) for value in (a, b)]
    if None in ranks:
        return "simulated: the shapes of the operands are unknown"
    if 1 in ranks:
        return "simulated: a product with a vector has no int8 form"
    for value, summed in ((a, -1), (b, -2)):
        operand, rank = quantized(value), rank_of(value) or 0
        if operand is None or operand.axis is None or operand.axis % rank < rank - 2:
            continue
        if operand.axis % rank == rank + summed:
            return "simulated: a scale along the summed axis does not factor out of the product"
        return "simulated: a product of activations with a scale per row or column has no int8 form"
    return None
