"""What an int8 product needs; lowering passes ask here before they rewrite, the report asks for the reason."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.attributes import tensor_of
from fxquant.numerics import storage_offset
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
ROWS = 64  # of a weight that are handled at once, to keep what is only needed for a moment small
ALIGNMENT = 8  # torch._int_mm on CUDA wants K and N to be multiples of 8


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


class Epilogue(NamedTuple):
    """What turns the integer product into the real result: see `fxquant.ops.int8_linear`."""

    weight: Tensor
    scale: Tensor
    bias: Tensor
    weight_zero_point: Tensor | None
    input_zero_point: Tensor | None


class MatmulEpilogue(NamedTuple):
    """What turns the integer product of two activations into the real result: see `fxquant.ops.int8_matmul`."""

    scale: Tensor
    a_zero_point: Tensor | None
    b_zero_point: Tensor | None


class TwinMatmulEpilogue(NamedTuple):
    """What turns the integer products of both ranges into the real result: see `fxquant.ops.int8_matmul_twin`."""

    high: Tensor
    low: Tensor
    b_zero_point: Tensor | None


class TwinEpilogue(NamedTuple):
    """What turns the integer products of both ranges into the real result: see `fxquant.ops.int8_linear_twin`."""

    weight: Tensor
    high: Tensor
    low: Tensor
    bias: Tensor


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


def obstacle(node: fx.Node) -> str | None:
    """Return why a product of the QUANTISED stage cannot become an int8 product, None where it can."""
    if node.target not in (F.linear, F.conv2d, torch.matmul):
        return "simulated: fused attention has no int8 form"
    names = ("left operand", "right operand") if node.target is torch.matmul else ("input", "weight")
    for name, value in zip(names, node.args, strict=False):
        if _is_summed(value):
            return f"simulated: the {name} is twin-uniform as published, which has no int8 form"
        if isinstance(value, fx.Node) and value.target is dequantize_log2:
            return f"simulated: the {name} is a power of two, and a product of those is made of shifts, not of int8 products"
        if not _reads_codes(value):
            return f"simulated: the {name} is float"
    if not all(is_quantized(value) for value in node.args[:2]):
        return "simulated: an operand is cast after it was quantised"
    return _matmul_obstacle(node) if node.target is torch.matmul else _weight_obstacle(node)


def _weight_obstacle(node: fx.Node) -> str | None:
    x, twin, weight = quantized(node.args[0]), quantized_twin(node.args[0]), quantized(node.args[1])
    if weight is None:
        return "simulated: a twin-uniform weight has no int8 form"
    value = node.meta.get("val")
    if node.target is F.conv2d and value is not None and value.dim() != 4:
        return "simulated: a convolution of one image without a batch axis"
    groups = node.args[6] if node.target is F.conv2d and len(node.args) > 6 else 1
    if groups != 1:
        return f"simulated: a convolution in {groups} groups is not one matrix product"
    bias = node.args[2] if len(node.args) > 2 else None
    if bias is not None and (not isinstance(bias, fx.Node) or bias.op != "get_attr"):
        return "simulated: the bias is computed at run time"
    if twin is not None and stored_zero_point(weight) is not None:
        return "simulated: a twin-uniform input and a weight with zero points have no int8 form"
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
    ranks = [_rank(value) for value in (a, b)]
    if None in ranks:
        return "simulated: the shapes of the operands are unknown"
    if 1 in ranks:
        return "simulated: a product with a vector has no int8 form"
    for value, summed in ((a, -1), (b, -2)):
        operand, rank = quantized(value), _rank(value) or 0
        if operand is None or operand.axis is None or operand.axis % rank < rank - 2:
            continue
        if operand.axis % rank == rank + summed:
            return "simulated: a scale along the summed axis does not factor out of the product"
        return "simulated: a product of activations with a scale per row or column has no int8 form"
    return None


def _rank(value: object) -> int | None:
    known = value.meta.get("val") if isinstance(value, fx.Node) else None
    return known.dim() if isinstance(known, Tensor) else None


def fold_matmul(a: fx.Node, b: fx.Node) -> MatmulEpilogue | TwinMatmulEpilogue:
    """Fold the scales of two activations, the dequantised `a` and `b`; zero points as stored, None where all are zero."""
    left, twin, right = quantized(a), quantized_twin(a), quantized(b)
    if right is None:
        raise RuntimeError("expected codes on the right")
    right_scale, right_zero = _per_head(b, right)
    if twin is not None:
        high, low = ((tensor_of(s).double() * right_scale).float() for s in (twin.high, twin.low))
        return TwinMatmulEpilogue(high, low, right_zero)
    if left is None:
        raise RuntimeError("expected codes on the left")
    left_scale, left_zero = _per_head(a, left)
    return MatmulEpilogue((left_scale * right_scale).float(), left_zero, right_zero)


def _per_head(value: fx.Node, operand: Quantized) -> tuple[Tensor, Tensor | None]:
    """Return the scale in float64 and the zero point, 0-dim or ``(H, 1, 1)``."""
    scale, zero_point = tensor_of(operand.scale).double(), stored_zero_point(operand)
    if zero_point is not None and not zero_point.any():
        zero_point = None
    if operand.axis is None:
        return scale, zero_point
    rank = _rank(value) or 0
    shape = (-1, *(1,) * (rank - 1 - operand.axis % rank))
    return scale.reshape(shape), None if zero_point is None else zero_point.reshape(shape)


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
        total = total - scale * zero_x * _row_sums(codes)
    zero_w = stored_zero_point(weight)
    return Epilogue(
        _padded(codes),
        scale.float().contiguous(),
        total.float(),
        None if zero_w is None else zero_w.expand(codes.shape[0]).contiguous(),
        zero_x if zero_w is not None else None,
    )


def fold_twin_epilogue(x: QuantizedTwin, weight: Quantized, bias: object) -> TwinEpilogue:
    """Fold the scales of both ranges with the weight's, one of each per output channel; the weight as in `fold_epilogue`."""
    codes = tensor_of(weight.codes).flatten(1)
    rows, scale = codes.shape[0], tensor_of(weight.scale).double()
    high, low = ((tensor_of(s).double() * scale).expand(rows).float().contiguous() for s in (x.high, x.low))
    total = torch.zeros(rows, device=codes.device) if bias is None else tensor_of(bias).float()
    return TwinEpilogue(_padded(codes), high, low, total)


def _padded(codes: Tensor) -> Tensor:
    rows, columns = codes.shape
    if columns % ALIGNMENT == rows % ALIGNMENT == 0:
        return codes.contiguous()
    return F.pad(codes, (0, -columns % ALIGNMENT, 0, -rows % ALIGNMENT)).contiguous()


def _row_sums(codes: Tensor) -> Tensor:
    """Return the exact sum of each row of ``(O, K)`` codes, a few rows at a time: torch adds floats faster than bytes."""
    exact = torch.float32 if codes.shape[1] * 128 < 2**24 else torch.float64
    return torch.cat([rows.to(exact).sum(1) for rows in codes.split(ROWS)]).double()


def stored_zero_point(operand: Quantized) -> Tensor | None:
    """Return the zero point of the codes as they are stored in int8 (int32), None where it is zero."""
    offset = storage_offset(operand.qmax)
    if operand.zero_point is None and offset == 0:
        return None
    zero_point = tensor_of(operand.zero_point) if operand.zero_point is not None else None
    if zero_point is None:
        zero_point = torch.zeros_like(tensor_of(operand.scale), dtype=torch.int32)
    return zero_point - offset
