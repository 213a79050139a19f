"""A linear layer on float8 codes: one product that sums in float32, then scale and bias."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.kernels import multiplies_float8
from fxquant.kernels.checks import check_float8_linear


def float8_linear(
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    dtype: torch.dtype,
    row_scale: Tensor | None = None,
) -> Tensor:
    """
    Return ``scale * row_scale * (codes @ weight.T) + bias`` as ``(..., O)`` in `dtype`.

    codes ``(..., K)`` e4m3: as `fxquant.ops.quantize_float8` gives them. weight ``(O', K')`` e4m3: O' and K' are O and K, or
    the next multiples of 16 with zero rows and columns, which `torch._scaled_mm` asks for on CUDA. scale ``(O,)`` float32: the
    scale of the input times that of the weight. bias ``(O,)`` float32.

    row_scale: float32 ``(..., 1)``, that of each row of `codes`, which `fxquant.ops.quantize_float8_tokens` gave; `scale` is
    then that of the weight. None: the input has one scale.

    On CUDA from compute capability 8.9 the product is `torch._scaled_mm`, elsewhere one of the codes as float32.
    """
    check_float8_linear(codes, weight, scale, bias, dtype, row_scale)
    product = scaled_mm if multiplies_float8(codes) else float_mm
    return product(codes, weight, scale, bias, dtype, row_scale)


def scaled_mm(
    codes: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, dtype: torch.dtype, row_scale: Tensor | None
) -> Tensor:
    """
    Return `float8_linear` by `torch._scaled_mm`, whose sums are promoted to float32 on the way.

    A result in bfloat16 is scaled and shifted by the product itself, which CUDA offers for no other dtype where rows and
    columns have scales: the others are scaled afterwards.
    """
    rows, outputs = _rows(codes, weight.shape[1]), scale.shape[0]
    missing = weight.shape[0] - outputs
    if dtype is torch.bfloat16:
        by_row = torch.ones(rows.shape[0], 1, device=rows.device) if row_scale is None else row_scale.reshape(-1, 1)
        by_column, shift = (F.pad(t, (0, missing)) if missing else t for t in (scale, bias.to(dtype)))
        y = torch._scaled_mm(rows, weight.t(), by_row, by_column[None], bias=shift, out_dtype=dtype)
        return y[:, :outputs].reshape(*codes.shape[:-1], outputs)
    one = torch.ones(1, device=rows.device)
    y = torch._scaled_mm(rows, weight.t(), one, one, out_dtype=torch.float32)[:, :outputs]
    return _finished(y.reshape(*codes.shape[:-1], outputs), scale, bias, dtype, row_scale)


def float_mm(
    codes: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, dtype: torch.dtype, row_scale: Tensor | None
) -> Tensor:
    """Return `float8_linear` by a product of the codes as float32."""
    y = codes.float() @ weight[: scale.shape[0], : codes.shape[-1]].float().t()
    return _finished(y, scale, bias, dtype, row_scale)


def _rows(codes: Tensor, depth: int) -> Tensor:
    """Return the rows of the codes, with zeros up to a `depth`, as contiguous ``(M, depth)``."""
    rows = codes.reshape(-1, codes.shape[-1]).contiguous()
    missing = depth - rows.shape[1]
    # The code of zero is the byte 0, and bytes are padded on every device.
    return F.pad(rows.view(torch.uint8), (0, missing)).view(codes.dtype) if missing else rows


def _finished(y: Tensor, scale: Tensor, bias: Tensor, dtype: torch.dtype, row_scale: Tensor | None) -> Tensor:
    y = y * scale
    return ((y if row_scale is None else y * row_scale) + bias).to(dtype)
