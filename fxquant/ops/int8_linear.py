"""A linear layer on int8 codes: one integer product, then scale and bias."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.errors import InputError
from fxquant.kernels import cpu, on_cpu_kernels, on_triton_kernels, triton
from fxquant.kernels.checks import check_linear, check_one, check_tensor

PAD_ROWS = 17  # torch._int_mm on CUDA wants more than 16 rows


def int8_linear(
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    weight_zero_point: Tensor | None,
    input_zero_point: Tensor | None,
    dtype: torch.dtype,
    pad_rows: bool,
    row_scale: Tensor | None = None,
    row_zero_point: Tensor | None = None,
) -> Tensor:
    """
    Return ``scale * (codes @ weight.T) + bias`` as ``(..., O)`` in `dtype`.

    codes ``(..., K)`` int8: as `fxquant.ops.quantize` stores them. weight ``(O', K')`` int8: O' and K' are O and K, or the
    next multiples of 8 with zero rows and columns, which CUDA's `torch._int_mm` asks for. scale ``(O,)`` float32: the scale of
    the input times that of the weight. bias ``(O,)`` float32: that of the layer, less what the zero point of the input adds to
    the product (`fxquant.lowering.epilogue.fold_epilogue`).

    What the zero point of an affine weight adds depends on the input, so it is computed here: the result is less by
    ``scale[o] * weight_zero_point[o] * sum_k (codes[k] - input_zero_point)``. weight_zero_point: int32 ``(O,)``, None for a
    symmetric weight. input_zero_point: int32, 0-dim, None for 0. pad_rows: add zero rows, as CUDA wants more than 16.

    row_scale (float32) and row_zero_point (int32), ``(...)`` each: those of the rows of `codes` that
    `fxquant.ops.quantize_tokens` gave; `scale` and `bias` are then those of the weight and of the layer, which is symmetric.
    The result is ``scale[o] * row_scale * (codes - row_zero_point) @ weight.T + bias``. None: the input has one scale.
    """
    own = (row_scale, row_zero_point)
    fits = weight_zero_point is None and cpu.fits(codes, weight, scale, dtype)
    if fits and on_cpu_kernels(codes, weight, scale, bias, *own):
        return cpu.linear(codes, weight, scale, bias, dtype, rows=own)
    fits = weight_zero_point is None and triton.fits(codes, weight, scale, dtype)
    if fits and on_triton_kernels(codes, weight, *own):
        return triton.operators.linear(codes, weight, scale, bias, dtype, rows=own)
    check_linear(codes, weight, scale, bias, dtype, rows=own)
    rows = codes.reshape(-1, codes.shape[-1])
    acc = int_mm(rows, weight, pad_rows)[:, : scale.shape[0]]
    if weight_zero_point is not None:
        if row_scale is not None:
            raise InputError("expected a symmetric weight beside a scale for each row of the codes")
        check_tensor("zero point of the weight", weight_zero_point, torch.int32, scale.shape)
        sums = rows.sum(dim=1, keepdim=True, dtype=torch.int32)
        if input_zero_point is not None:
            check_one("zero point of the input", input_zero_point, torch.int32)
            sums = sums - rows.shape[1] * input_zero_point
        acc = acc - sums * weight_zero_point
    if row_scale is None or row_zero_point is None:
        y = acc.float().mul_(scale).add_(bias)
    else:
        sums = weight[: scale.shape[0], : codes.shape[-1]].sum(dim=1, dtype=torch.int32)
        acc = acc - row_zero_point.reshape(-1, 1) * sums
        y = acc.float().mul_(scale).mul_(row_scale.reshape(-1, 1)).add_(bias)
    return y.to(dtype).reshape(*codes.shape[:-1], scale.shape[0])


def int_mm(rows: Tensor, weight: Tensor, pad_rows: bool) -> Tensor:
    """Return ``rows @ weight.T`` as int32 ``(M, O')`` for int8 ``(M, K)`` and ``(O', K')``, padding the rows with zeros."""
    count = rows.shape[0]
    missing = weight.shape[1] - rows.shape[1]
    if missing or pad_rows:
        rows = F.pad(rows, (0, missing, 0, PAD_ROWS if pad_rows else 0))
    return torch._int_mm(rows, weight.t())[:count]
