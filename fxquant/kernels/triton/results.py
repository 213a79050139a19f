"""The empty results of the operators ``fxquant::triton_*``, made once their operands have been checked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxquant.errors import InputError
from fxquant.kernels.checks import (
    MOST,
    check_count,
    check_given,
    check_layer_norm,
    check_linear,
    check_per_head,
    check_product,
    check_quantizer,
    check_result,
    check_tensor,
)
from fxquant.kernels.quantizer import NO_ROWS, Quantizer

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDEST_NORM = 16384  # elements of a row that one program can hold
GELUS = (None, "none", "tanh")
TALLEST_TILE = 256  # rows, whose offsets from the first are int32


def linear_result(
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    low: Tensor | None,
    bias: Tensor,
    residual: Tensor | None,
    gelu: str | None,
    dtype: torch.dtype,
    *rest: Any,
) -> Tensor:
    """Return what `triton_linear` writes to, ``(..., O)``."""
    check_given(weight=weight)
    quantizer, rows = rest[:7], rest[7:] or NO_ROWS
    q_scale, q_zero_point, q_low, q_split, q_noise, _, _ = quantizer
    _check_kernel(
        dtype, codes, weight, scale, low, bias, residual, q_scale, q_zero_point, q_low, q_split, q_noise, *rows
    )
    check_linear(codes, weight, scale, bias, dtype, low=low, residual=residual, rows=rows)
    outputs = scale.shape[0]
    check_result(*quantizer, columns=outputs)
    if gelu not in GELUS or outputs > MOST // TALLEST_TILE:
        raise InputError(
            f"expected a GELU of {GELUS} and at most {MOST // TALLEST_TILE} outputs, found {gelu!r} and {outputs}"
        )
    return codes.new_empty((*codes.shape[:-1], outputs), dtype=dtype if q_scale is None else torch.int8)


def layer_norm_result(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
    scale: Tensor,
    zero_point: Tensor | None,
    noise: Tensor | None,
    qmin: int,
    qmax: int,
) -> Tensor:
    """Return what `triton_layer_norm_quantize` writes to, of the shape of `x` ``(..., C)``."""
    _check_kernel(x.dtype, x, weight, bias, scale, zero_point, noise)
    check_layer_norm(x, weight, bias, epsilon)
    if x.shape[-1] > WIDEST_NORM:
        raise InputError(f"expected rows of at most {WIDEST_NORM} values, found {x.shape[-1]}")
    check_quantizer(Quantizer(scale, zero_point, None, None, noise, qmin, qmax), x.shape[-1])
    return torch.empty(x.shape, dtype=torch.int8, device=x.device)


def quantize_result(x: Tensor, *quantizer: Any) -> Tensor:
    """Return what `triton_quantize` writes to, of the shape of `x`."""
    q = Quantizer(*quantizer)
    _check_kernel(x.dtype, x, *q[:-2])
    check_quantizer(q, x.shape[-1] if x.dim() else 1)
    return torch.empty(x.shape, dtype=torch.int8, device=x.device)


def matmul_result(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    low: Tensor | None,
    a_zero_point: Tensor | None,
    b_zero_point: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Return what `triton_matmul` writes to, ``(B, H, N, M)``."""
    _check_kernel(dtype, a, b, scale, low, a_zero_point, b_zero_point)
    check_tensor("left", a, torch.int8, (None, None, None, None))
    check_tensor("right", b, torch.int8, (*a.shape[:2], a.shape[3], None))
    check_product(a, b)
    if low is not None and a_zero_point is not None:
        raise InputError("expected a low scale or a zero point of the left, found both")
    check_per_head(scale, low, a_zero_point, b_zero_point, a.shape[1:2])
    out = a.new_empty((*a.shape[:-1], b.shape[-1]), dtype=dtype)
    for each in (a, b, out):
        reach = sum((size - 1) * stride for size, stride in zip(each.shape[2:], each.stride()[2:], strict=True))
        if isinstance(reach, int) and reach > MOST:
            raise InputError(f"expected matrices that reach over at most {MOST} elements, found {tuple(each.shape)}")
    return out


def _check_kernel(dtype: torch.dtype, first: Tensor, *rest: Tensor | None) -> None:
    """Check what kernels read or write floats in, and that all operands are on one device and not too large to copy."""
    if dtype not in DTYPES:
        raise InputError(f"expected one of {DTYPES}, found {dtype}")
    for each in (first, *rest):
        if each is not None and each.device != first.device:
            raise InputError(f"expected all operands on {first.device}, found one on {each.device}")
        if each is not None:
            check_count("operands", each)
