"""Layer norm on integers: shifts for the power-of-two factors of its input, 8-bit multipliers for its scale."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.kernels.checks import check_layer_norm, check_one, check_range, check_tensor
from fxquant.numerics import arithmetic


def integer_layer_norm(
    codes: Tensor,
    factor: Tensor,
    zero_point: Tensor,
    qmax_in: int,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor,
    output_zero_point: Tensor | None,
    qmin: int,
    qmax: int,
) -> Tensor:
    """
    Return the int8 codes, as `quantize` stores them, of the layer norm of quantised values ``(..., C)`` over the last axis.

    codes: int8, as stored, of values ``(code - zero_point) * s * factor`` for any s. factor, zero_point: int32 ``(C,)`` or
    0-dim. weight, bias: float ``(C,)``, or None. scale, 0-dim float32, and output_zero_point, int32 or None for 0, are the
    result's, with codes in ``[qmin, qmax]``. See `fxquant.numerics.arithmetic.integer_layer_norm`.
    """
    check_layer_norm(codes, weight, bias, 0, torch.int8)
    for name, each in (("factor", factor), ("zero point", zero_point)):
        check_tensor(name, each, torch.int32, codes.shape[-1:] if each.dim() else ())
    check_one("scale", scale, torch.float32)
    if output_zero_point is not None:
        check_one("zero point of the result", output_zero_point, torch.int32)
    check_range(qmin, qmax)
    steps = (codes.to(torch.int64) + arithmetic.storage_offset(qmax_in) - zero_point) * factor
    normed = arithmetic.integer_layer_norm(steps, weight, bias, scale)
    if output_zero_point is not None:
        normed = normed + output_zero_point
    return (normed.clamp(qmin, qmax) - arithmetic.storage_offset(qmax)).to(torch.int8)
