"""Real numbers to int8 codes with a scale per token, computed at run time, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.kernels import cpu, on_cpu_kernels
from fxquant.kernels.checks import check_range, check_rows, check_tensor
from fxquant.numerics import arithmetic


def quantize_tokens(x: Tensor, symmetric: bool, qmin: int, qmax: int) -> tuple[Tensor, Tensor, Tensor]:
    """
    Return the int8 codes of `x` ``(..., C)``, and the scale (float32) and zero point (int32) of each row, ``(...)``.

    The range of a row is that of its values and zero; symmetric: the zero point is 0. Unsigned 8-bit codes are stored minus
    128, and so is their zero point: ``x ~ (code - zero_point) * scale`` as both are stored.
    """
    if cpu.quantizes(x) and on_cpu_kernels(x):
        return cpu.quantize_tokens(x, symmetric, qmin, qmax)
    check_rows(x)
    check_range(qmin, qmax)
    codes, scale, zero_point = arithmetic.quantize_tokens(x, symmetric, qmin, qmax)
    offset = arithmetic.storage_offset(qmax)
    return codes.sub_(offset).to(torch.int8), scale, zero_point - offset


def dequantize_tokens(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return ``(code - zero_point) * scale`` as float32 ``(..., C)``, for what `quantize_tokens` gave."""
    check_rows(codes, torch.int8)
    check_tensor("scale", scale, torch.float32, codes.shape[:-1])
    check_tensor("zero point", zero_point, torch.int32, codes.shape[:-1])
    return arithmetic.dequantize(codes, scale[..., None], zero_point[..., None])
