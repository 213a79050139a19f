"""A product of two activations on int8 codes: many integer products at once, then zero points and scale."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fxquant.kernels import on_triton_kernels, triton
from fxquant.kernels.checks import check_matmul
from fxquant.ops.batched_int_mm import batched_int_mm


def int8_matmul(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    a_zero_point: Tensor | None,
    b_zero_point: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """
    Return ``scale * ((a - a_zero_point) @ (b - b_zero_point))`` as ``(..., N, M)`` in `dtype`.

    a ``(..., N, K)`` and b ``(..., K, M)`` are int8 codes as stored, such as the queries and transposed keys ``(B, H, N, D)``
    and ``(B, H, D, N)``; their leading axes broadcast as in `torch.matmul`. scale float32 is the product of both scales, the
    zero points int32 are as stored, None for 0; each is 0-dim, or ``(H, 1, 1)`` for one per head.
    """
    if triton.multiplies(a, b, dtype) and on_triton_kernels(a, b):
        return triton.operators.matmul(a, b, scale, None, a_zero_point, b_zero_point, dtype)
    check_matmul(a, b, scale, None, a_zero_point, b_zero_point, dtype)
    return shifted_product(a, b, a_zero_point, b_zero_point).float().mul_(scale).to(dtype)


def shifted_product(a: Tensor, b: Tensor, a_zero_point: Tensor | None, b_zero_point: Tensor | None) -> Tensor:
    """
    Return ``(a - z_a) @ (b - z_b)`` as exact int32 ``(..., N, M)``.

    It is ``a @ b - z_a colsum(b) - z_b rowsum(a) + K z_a z_b`` (Jacob et al. 2018, equation 7).
    """
    acc = int_matmul(a, b)
    if b_zero_point is not None:
        sums = a.sum(dim=-1, keepdim=True, dtype=torch.int32)  # (..., N, 1)
        if a_zero_point is not None:
            sums = sums - a.shape[-1] * a_zero_point
        acc = acc - sums * b_zero_point
    if a_zero_point is not None:
        acc = acc - b.sum(dim=-2, keepdim=True, dtype=torch.int32) * a_zero_point  # (..., 1, M)
    return acc


def int_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b`` as exact int32 ``(..., N, M)`` for int8 ``(..., N, K)`` and ``(..., K, M)``."""
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    count = math.prod(batch)
    x, y = (t.expand(*batch, *t.shape[-2:]).reshape(count, *t.shape[-2:]) for t in (a, b))
    product: Tensor = batched_int_mm(x, y)
    return product.reshape(*batch, a.shape[-2], b.shape[-1])
