"""`int8_linear`, GELU and the quantiser behind it: the first half of an MLP, whose float result is never in memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.kernels import cpu, on_cpu_kernels, on_triton_kernels, triton
from fxquant.kernels.checks import check_given
from fxquant.ops.int8_linear import int8_linear
from fxquant.ops.quantize import quantize
from fxquant.ops.twin import quantize_twin


def int8_linear_gelu_quantize(
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    approximate: str,
    dtype: torch.dtype,
    pad_rows: bool,
    out_scale: Tensor,
    out_zero_point: Tensor | None,
    qmin: int,
    qmax: int,
    noise: Tensor | None = None,
    row_scale: Tensor | None = None,
    row_zero_point: Tensor | None = None,
) -> Tensor:
    """
    Return the int8 codes ``(..., O)`` of ``gelu(int8_linear(codes, weight, scale, bias, None, None, dtype, pad_rows))``.

    approximate: that of `torch.nn.functional.gelu`. row_scale and row_zero_point are those of `int8_linear`. The five before
    them are those of `fxquant.ops.quantize`, for one scale.
    """
    check_given(out_scale=out_scale)
    quantizer = cpu.Quantizer(out_scale, out_zero_point, None, None, noise, qmin, qmax)
    rows = (row_scale, row_zero_point)
    if cpu.fits(codes, weight, scale, dtype) and on_cpu_kernels(codes, weight, scale, bias, out_scale, noise, *rows):
        return cpu.linear(codes, weight, scale, bias, dtype, gelu=approximate, quantizer=quantizer, rows=rows)
    if triton.fits(codes, weight, scale, dtype) and on_triton_kernels(codes, weight, *rows):
        return triton.operators.linear(
            codes, weight, scale, bias, dtype, gelu=approximate, quantizer=quantizer, rows=rows
        )
    y = int8_linear(codes, weight, scale, bias, None, None, dtype, pad_rows, row_scale, row_zero_point)
    y = F.gelu(y, approximate=approximate)
    return quantize(y, out_scale, out_zero_point, qmin, qmax, None, noise)


def int8_linear_gelu_quantize_twin(
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    approximate: str,
    dtype: torch.dtype,
    pad_rows: bool,
    high: Tensor,
    low: Tensor,
    split: Tensor,
    qmin: int,
    qmax: int,
    noise: Tensor | None = None,
    row_scale: Tensor | None = None,
    row_zero_point: Tensor | None = None,
) -> Tensor:
    """
    Return the int8 codes ``(..., O)`` of the values that `int8_linear_gelu_quantize` computes, twin-uniform ones.

    The six arguments before row_scale are those of `fxquant.ops.quantize_twin`.
    """
    check_given(high=high, low=low, split=split)
    quantizer = cpu.Quantizer(high, None, low, split, noise, qmin, qmax)
    rows = (row_scale, row_zero_point)
    if cpu.fits(codes, weight, scale, dtype) and on_cpu_kernels(codes, weight, scale, bias, high, noise, *rows):
        return cpu.linear(codes, weight, scale, bias, dtype, gelu=approximate, quantizer=quantizer, rows=rows)
    if triton.fits(codes, weight, scale, dtype) and on_triton_kernels(codes, weight, *rows):
        return triton.operators.linear(
            codes, weight, scale, bias, dtype, gelu=approximate, quantizer=quantizer, rows=rows
        )
    y = int8_linear(codes, weight, scale, bias, None, None, dtype, pad_rows, row_scale, row_zero_point)
    y = F.gelu(y, approximate=approximate)
    return quantize_twin(y, high, low, split, qmin, qmax, noise)
