"""A linear layer on twin-uniform codes: both ranges in one integer product, then two scales and the bias."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.kernels import cpu, on_cpu_kernels, on_triton_kernels, triton
from fxquant.kernels.checks import check_given, check_linear
from fxquant.ops.int8_linear import int_mm


def int8_linear_twin(
    codes: Tensor, weight: Tensor, high: Tensor, low: Tensor, bias: Tensor, dtype: torch.dtype, pad_rows: bool
) -> Tensor:
    """
    Return ``high * (max(codes, 0) @ weight.T) + low * (min(codes, 0) @ weight.T) + bias`` as ``(..., O)`` in `dtype`.

    codes ``(..., K)`` int8 are those of `quantize_twin`, so that no element counts in both products; they are stacked along
    the rows for a single integer product. weight ``(O', K')`` is as in `int8_linear`; high and low ``(O,)`` float32 are the
    products of the two input scales and the weight's.
    """
    check_given(low=low)
    if cpu.fits(codes, weight, high, dtype) and on_cpu_kernels(codes, weight, high, low, bias):
        return cpu.linear(codes, weight, high, bias, dtype, low=low)
    if triton.fits(codes, weight, high, dtype) and on_triton_kernels(codes, weight):
        return triton.operators.linear(codes, weight, high, bias, dtype, low=low)
    check_linear(codes, weight, high, bias, dtype, low=low)
    rows = codes.reshape(-1, codes.shape[-1])
    stacked = torch.cat((rows.clamp(min=0), rows.clamp(max=0)))
    product = int_mm(stacked, weight, pad_rows)[:, : high.shape[0]].float()
    # Not chunk: the number of rows may be symbolic.
    above, below = product.reshape(2, rows.shape[0], high.shape[0]).unbind()
    y = above.mul(high).add_(below.mul(low)).add_(bias)
    return y.to(dtype).reshape(*codes.shape[:-1], high.shape[0])
