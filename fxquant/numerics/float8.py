"""
Float8 codes of the format e4m3: a sign, 4 bits of exponent and 3 of mantissa, without infinities (``torch.float8_e4m3fn``).

A code is a float, whose distance from the next one grows with its size, and ``x ~ code * scale``. There is no zero point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.numerics.arithmetic import along, symmetric_scale

DTYPE = torch.float8_e4m3fn
LARGEST = 448
_SMALLEST_NORMAL = 2.0**-6  # codes below it are as far apart as those next to it
_MANTISSA_BITS = 3


def quantize_float8(x: Tensor, scale: Tensor, axis: int | None = None) -> Tensor:
    """
    Return the codes of `x` in `DTYPE`: ``x / scale`` to the nearest, ties to the even mantissa, and at most 448 in size.

    scale: float32, 0-dim, one per index of `axis`, or of a shape that broadcasts, such as ``(..., 1)``. NaN stays NaN.
    """
    return (x.float() / along(scale, x.dim(), axis)).clamp_(-LARGEST, LARGEST).to(DTYPE)


def dequantize_float8(codes: Tensor, scale: Tensor, axis: int | None = None) -> Tensor:
    """Return ``codes * scale`` as float32, for codes that `quantize_float8` made with these arguments."""
    return codes.float() * along(scale, codes.dim(), axis)


def token_scale(x: Tensor) -> Tensor:
    """Return the scale ``(..., 1)`` of every row of `x` ``(..., C)``, for which its largest value is the largest code."""
    return symmetric_scale(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), -LARGEST, LARGEST)


def round_float8(steps: Tensor) -> Tensor:
    """Return the codes nearest to values in units of the scale, as float32."""
    return steps.float().clamp(-LARGEST, LARGEST).to(DTYPE).float()


def beside_float8(codes: Tensor, upwards: Tensor) -> Tensor:
    """Return the next larger code where `upwards`, a bool for each, else the next smaller one; codes are float32."""
    exponent = torch.frexp(codes.abs().clamp(min=_SMALLEST_NORMAL)).exponent - 1
    gap = torch.ldexp(torch.ones_like(codes), exponent - _MANTISSA_BITS)
    # Towards zero the gap is half as wide at a power of two: 0.7 of it is nearest to the next code in either case.
    return round_float8(codes + torch.where(upwards, 0.7, -0.7) * gap)
