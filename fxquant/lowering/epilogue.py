"""Constants that turn an integer product into the real result."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.graph.attributes import tensor_of
from fxquant.lowering.quantized import quantized, quantized_twin, rank_of, stored_zero_point
from fxquant.lowering.quantizer_site import QuantizerSite

ROWS = 64  # of a weight that are handled at once, to keep what is only needed for a moment small


ALIGNMENT = 8  # torch._int_mm on CUDA wants K and N to be multiples of 8


class Epilogue(NamedTuple):
    """
    The constants of `fxquant.ops.int8_linear`, by the names of its arguments.

    weight: int8 ``(O', K')``, flattened and padded. scale, bias: float32 ``(O,)``. Zero points: int32 ``(O,)`` of the weight,
    0-dim of the input, both None where the weight is symmetric.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor
    weight_zero_point: Tensor | None
    input_zero_point: Tensor | None


class MatmulEpilogue(NamedTuple):
    """The constants of `fxquant.ops.int8_matmul`, by the names of its arguments, each 0-dim or ``(H, 1, 1)``."""

    scale: Tensor
    a_zero_point: Tensor | None
    b_zero_point: Tensor | None


class TwinMatmulEpilogue(NamedTuple):
    """The constants of `fxquant.ops.int8_matmul_twin`, by the names of its arguments, each 0-dim or ``(H, 1, 1)``."""

    high: Tensor
    low: Tensor
    b_zero_point: Tensor | None


class TwinEpilogue(NamedTuple):
    """The constants of `fxquant.ops.int8_linear_twin`: weight int8 ``(O', K')``, the others float32 ``(O,)``."""

    weight: Tensor
    high: Tensor
    low: Tensor
    bias: Tensor


def fold_matmul(a: fx.Node, b: fx.Node) -> MatmulEpilogue | TwinMatmulEpilogue:
    """Multiply the scales of two dequantised activations `a` and `b`; zero points are as stored, None where all are zero."""
    left, twin, right = quantized(a), quantized_twin(a), quantized(b)
    if right is None:
        raise RuntimeError("expected codes on the right")
    right_scale, right_zero = _per_head(b, right)
    if twin is not None:
        high, low = ((tensor_of(s).double() * right_scale).float() for s in twin.scales)
        return TwinMatmulEpilogue(high, low, right_zero)
    if left is None:
        raise RuntimeError("expected codes on the left")
    left_scale, left_zero = _per_head(a, left)
    return MatmulEpilogue((left_scale * right_scale).float(), left_zero, right_zero)


def _per_head(value: fx.Node, operand: QuantizerSite) -> tuple[Tensor, Tensor | None]:
    """Return the scale in float64 and the zero point, 0-dim or ``(H, 1, 1)``."""
    scale, zero_point = tensor_of(operand.scale).double(), stored_zero_point(operand)
    if zero_point is not None and not zero_point.any():
        zero_point = None
    if operand.axis is None:
        return scale, zero_point
    rank = rank_of(value) or 0
    shape = (-1, *(1,) * (rank - 1 - operand.axis % rank))
    return scale.reshape(shape), None if zero_point is None else zero_point.reshape(shape)


def fold_epilogue(x: QuantizerSite, weight: QuantizerSite, bias: object) -> Epilogue:
    """
    Fold both scales, the bias and the zero points into one scale and one bias per output channel.

    With stored codes c and w, ``y = s_x s_w [sum c w - z_x sum w] + b`` for a symmetric weight, zero points as stored.
    The weight is flattened to ``(O, K)`` and padded with zeros to multiples of `ALIGNMENT`.
    """
    codes = tensor_of(weight.codes).flatten(1)
    scale = (tensor_of(x.scale).double() * tensor_of(weight.scale).double()).expand(codes.shape[0]).float()
    total = torch.zeros(codes.shape[0], dtype=torch.float64, device=codes.device)
    if bias is not None:
        total = total + tensor_of(bias).double()
    zero_x = stored_zero_point(x)
    if zero_x is not None:
        # Rounded as the product is: without a bias an input of zeros, such as a padded token, gives exact zeros.
        total = total - ((zero_x * _row_sums(codes)).float() * scale).double()
    zero_w = stored_zero_point(weight)
    return Epilogue(
        _padded(codes),
        scale.contiguous(),
        total.float(),
        None if zero_w is None else zero_w.expand(codes.shape[0]).contiguous(),
        zero_x if zero_w is not None else None,
    )


def fold_token_epilogue(weight: QuantizerSite, bias: object) -> Epilogue:
    """Return the scale of the weight and the bias as they are, ``(O,)``: what a token adds to them is known at run time."""
    codes = tensor_of(weight.codes).flatten(1)
    scale = tensor_of(weight.scale).expand(codes.shape[0]).contiguous()
    total = torch.zeros(codes.shape[0], device=codes.device) if bias is None else tensor_of(bias).float()
    return Epilogue(_padded(codes), scale, total, None, None)


def fold_twin_epilogue(x: QuantizerSite, weight: QuantizerSite, bias: object) -> TwinEpilogue:
    """Multiply the scale of each range by those of the weight, to two scales ``(O,)``; the weight is as in `fold_epilogue`."""
    codes = tensor_of(weight.codes).flatten(1)
    rows, scale = codes.shape[0], tensor_of(weight.scale).double()
    high, low = ((tensor_of(s).double() * scale).expand(rows).float().contiguous() for s in x.scales)
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
