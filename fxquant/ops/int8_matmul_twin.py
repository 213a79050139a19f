"""A product of two activations of which the first has twin-uniform codes: both ranges in one product, then two scales."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.kernels import on_triton_kernels, triton
from fxquant.kernels.checks import check_given, check_matmul
from fxquant.ops.int8_matmul import shifted_product


def int8_matmul_twin(
    a: Tensor, b: Tensor, high: Tensor, low: Tensor, b_zero_point: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """
    Return ``high * (max(a, 0) @ (b - z)) + low * (min(a, 0) @ (b - z))`` as ``(..., N, M)`` in `dtype`, z: `b_zero_point`.

    a ``(..., N, K)`` int8 are the codes of `quantize_twin`, such as attention probabilities ``(B, H, N, N)``; no element counts
    in both ranges (PTQ4ViT, section 3.2), which are stacked along the rows for one integer product. b ``(..., K, M)`` and its
    zero point are as in `int8_matmul`; high and low float32, 0-dim or ``(H, 1, 1)``, are the products of the two scales of a
    and that of b.
    """
    check_given(low=low)
    if triton.multiplies(a, b, dtype) and on_triton_kernels(a, b):
        return triton.operators.matmul(a, b, high, low, None, b_zero_point, dtype)
    check_matmul(a, b, high, low, None, b_zero_point, dtype)
    stacked = torch.cat((a.clamp(min=0), a.clamp(max=0)), dim=-2)  # (..., 2 N, K)
    product = shifted_product(stacked, b, None, b_zero_point).float()
    above, below = product.reshape(*product.shape[:-2], 2, a.shape[-2], b.shape[-1]).unbind(-3)
    return above.mul(high).add_(below.mul(low)).to(dtype)
