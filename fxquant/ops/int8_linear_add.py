"""`int8_linear` and `int8_linear_twin` with the residual added, as behind attention and behind an MLP."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.kernels import cpu, on_cpu_kernels, on_triton_kernels, triton
from fxquant.kernels.checks import check_given, check_linear
from fxquant.ops.int8_linear import int8_linear
from fxquant.ops.int8_linear_twin import int8_linear_twin


def int8_linear_add(
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    residual: Tensor,
    dtype: torch.dtype,
    pad_rows: bool,
    row_scale: Tensor | None = None,
    row_zero_point: Tensor | None = None,
) -> Tensor:
    """
    Return ``residual + int8_linear(codes, weight, scale, bias, None, None, dtype, pad_rows)``, ``(..., O)`` in `dtype`.

    residual ``(..., O)`` of any float dtype is cast to it. row_scale and row_zero_point are those of `int8_linear`.
    """
    check_given(residual=residual)
    rows = (row_scale, row_zero_point)
    if cpu.fits(codes, weight, scale, dtype) and on_cpu_kernels(codes, weight, scale, bias, residual, *rows):
        return cpu.linear(codes, weight, scale, bias, dtype, residual=residual, rows=rows)
    if triton.fits(codes, weight, scale, dtype) and on_triton_kernels(codes, weight, residual, *rows):
        return triton.operators.linear(codes, weight, scale, bias, dtype, residual=residual, rows=rows)
    check_linear(codes, weight, scale, bias, dtype, residual=residual, rows=rows)
    y = int8_linear(codes, weight, scale, bias, None, None, dtype, pad_rows, row_scale, row_zero_point)
    return residual.to(dtype) + y


def int8_linear_twin_add(
    codes: Tensor,
    weight: Tensor,
    high: Tensor,
    low: Tensor,
    bias: Tensor,
    residual: Tensor,
    dtype: torch.dtype,
    pad_rows: bool,
) -> Tensor:
    """
    Return ``residual + int8_linear_twin(codes, weight, high, low, bias, dtype, pad_rows)``, ``(..., O)`` in `dtype`.

    residual ``(..., O)`` of any float dtype is cast to it.
    """
    check_given(low=low, residual=residual)
    if cpu.fits(codes, weight, high, dtype) and on_cpu_kernels(codes, weight, high, low, bias, residual):
        return cpu.linear(codes, weight, high, bias, dtype, low=low, residual=residual)
    if triton.fits(codes, weight, high, dtype) and on_triton_kernels(codes, weight, residual):
        return triton.operators.linear(codes, weight, high, bias, dtype, low=low, residual=residual)
    check_linear(codes, weight, high, bias, dtype, low=low, residual=residual)
    return residual.to(dtype) + int8_linear_twin(codes, weight, high, low, bias, dtype, pad_rows)
