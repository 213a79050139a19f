"""Real numbers to float8 codes and back, with scales that are known or with one per token."""

from __future__ import annotations

from torch import Tensor

from fxquant.kernels.checks import check_along, check_float8_scale, check_real, check_rows, check_tensor
from fxquant.numerics import float8


def quantize_float8(x: Tensor, scale: Tensor, axis: int | None = None) -> Tensor:
    """
    Return the e4m3 codes of `x`, any shape: ``x / scale`` to the nearest, at most 448 in size.

    scale: float32, 0-dim or one per index of `axis`. The arithmetic is float32 whatever the dtype of `x`.
    """
    check_along(x, scale, None, axis)
    check_real("values", x)
    return float8.quantize_float8(x, scale, axis)


def quantize_float8_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the e4m3 codes of `x` ``(..., C)``, and the scale of each row, float32 ``(..., 1)``: its largest value is 448."""
    check_rows(x)
    scale = float8.token_scale(x)
    return float8.quantize_float8(x, scale), scale


def dequantize_float8(codes: Tensor, scale: Tensor, axis: int | None = None) -> Tensor:
    """
    Return ``codes * scale`` as float32, for codes of any shape.

    scale: 0-dim or one per index of `axis`, as `quantize_float8` was given, or ``(..., 1)`` of `quantize_float8_tokens`.
    """
    check_tensor("codes", codes, float8.DTYPE)
    check_float8_scale(codes, scale, axis)
    return float8.dequantize_float8(codes, scale, axis)
