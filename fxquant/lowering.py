"""What an int8 product needs; lowering passes ask here before they rewrite, the report asks for the reason."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.attributes import tensor_of
from fxquant.numerics import storage_offset
from fxquant.ops import dequantize

ALIGNMENT = 8  # torch._int_mm on CUDA wants K and N to be multiples of 8


class Quantized(NamedTuple):
    """The arguments of the `dequantize` node that stands for one quantised operand."""

    codes: fx.Node
    scale: fx.Node
    zero_point: fx.Node | None
    qmin: int
    qmax: int
    axis: int | None


class Epilogue(NamedTuple):
    """What turns the integer product into the real result: see `fxquant.ops.int8_linear`."""

    weight: Tensor
    scale: Tensor
    bias: Tensor
    weight_zero_point: Tensor | None
    input_zero_point: Tensor | None


def quantized(value: object) -> Quantized | None:
    """Return how `value` was quantised, or None where it is float."""
    if not isinstance(value, fx.Node) or value.target is not dequantize:
        return None
    arguments: tuple[Any, ...] = (*value.args, None)[:6]
    return Quantized(*arguments)


def obstacle(node: fx.Node) -> str | None:
    """Return why a product of the QUANTISED stage cannot become an int8 product, None where it can."""
    if node.target not in (F.linear, F.conv2d):
        return "simulated: products of two activations have no int8 form yet"
    x, weight = quantized(node.args[0]), quantized(node.args[1])
    if x is None or weight is None:
        return f"simulated: the {'input' if x is None else 'weight'} is float"
    value = node.meta.get("val")
    if node.target is F.conv2d and value is not None and value.dim() != 4:
        return "simulated: a convolution of one image without a batch axis"
    bias = node.args[2] if len(node.args) > 2 else None
    if bias is not None and (not isinstance(bias, fx.Node) or bias.op != "get_attr"):
        return "simulated: the bias is computed at run time"
    if x.axis is not None:
        return "simulated: an input scale per channel does not factor out of the product"
    if weight.axis not in (None, 0):
        return "simulated: a weight scale along the input channels does not factor out of the product"
    return None


def fold_epilogue(x: Quantized, weight: Quantized, bias: object) -> Epilogue:
    """
    Fold both scales, the bias and the zero points into one scale and one bias per output channel.

    With stored codes c and w, ``y = s_x s_w [sum c w - z_x sum w] + b`` for a symmetric weight, zero points as stored.
    The weight is flattened to ``(O, K)`` and padded with zeros to multiples of `ALIGNMENT`.
    """
    codes = tensor_of(weight.codes).flatten(1)
    scale = (tensor_of(x.scale).double() * tensor_of(weight.scale).double()).expand(codes.shape[0])
    total = torch.zeros(codes.shape[0], dtype=torch.float64, device=codes.device)
    if bias is not None:
        total = total + tensor_of(bias).double()
    zero_x = stored_zero_point(x)
    if zero_x is not None:
        total = total - scale * zero_x * codes.sum(dim=1, dtype=torch.int64)
    zero_w = stored_zero_point(weight)
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % ALIGNMENT, 0, -codes.shape[0] % ALIGNMENT))
    return Epilogue(
        padded.contiguous(),
        scale.float().contiguous(),
        total.float(),
        None if zero_w is None else zero_w.expand(codes.shape[0]).contiguous(),
        zero_x if zero_w is not None else None,
    )


def stored_zero_point(operand: Quantized) -> Tensor | None:
    """Return the zero point of the codes as they are stored in int8 (int32), None where it is zero."""
    offset = storage_offset(operand.qmax)
    if operand.zero_point is None and offset == 0:
        return None
    zero_point = tensor_of(operand.zero_point) if operand.zero_point is not None else None
    if zero_point is None:
        zero_point = torch.zeros_like(tensor_of(operand.scale), dtype=torch.int32)
    return zero_point - offset
