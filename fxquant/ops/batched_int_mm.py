"""Many integer matrix products at once, exact, by whatever computes them fastest on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.kernels.checks import check_product, check_tensor
from fxquant.kernels.fake import register_fake
from fxquant.ops.onednn_linear import has_vnni

EXACT_TERMS = 1024  # so many products of two int8 codes add up to 2^24 at most, below which float32 holds every integer
LOOP_SIZE = 2**19  # multiplications from which one matrix is worth a call of its own, times the threads it runs on


@torch.library.custom_op("fxquant::batched_int_mm", mutates_args=(), schema="(Tensor a, Tensor b) -> Tensor")
def batched_int_mm(a: Tensor, b: Tensor) -> Tensor:
    """
    Return ``a @ b`` as int32 ``(B, N, M)`` for int8 ``(B, N, K)`` and ``(B, K, M)``, K < 2^17.

    `torch._int_mm` multiplies one matrix at a time: on processors with VNNI it wins where the matrices are large. Everything
    else is a batched float32 product of the codes, in which each sum is an exact integer. It is an operator of its own so that
    compilers do not unroll the loop.
    """
    _check(a, b)
    size = a.shape[1] * a.shape[2] * b.shape[2]
    if a.device.type == "cpu" and size >= LOOP_SIZE * torch.get_num_threads() and has_vnni():
        return loop_over_matrices(a, b)
    return float32_product(a, b)


@register_fake("fxquant::batched_int_mm")
def _(a: Tensor, b: Tensor) -> Tensor:
    _check(a, b)
    return a.new_empty((a.shape[0], a.shape[1], b.shape[2]), dtype=torch.int32)


def _check(a: Tensor, b: Tensor) -> None:
    check_product(a, b)
    check_tensor("left", a, torch.int8, (None, None, None))
    check_tensor("right", b, torch.int8, (a.shape[0], a.shape[2], None))


def loop_over_matrices(a: Tensor, b: Tensor) -> Tensor:
    """Return `batched_int_mm` computed by one `torch._int_mm` per matrix."""
    result = a.new_empty((a.shape[0], a.shape[1], b.shape[2]), dtype=torch.int32)
    for x, y, out in zip(_dense(a).unbind(), _dense(b).unbind(), result.unbind(), strict=True):
        torch._int_mm(x, y, out=out)
    return result


def float32_product(a: Tensor, b: Tensor) -> Tensor:
    """
    Return `batched_int_mm` computed in float32, at most `EXACT_TERMS` terms at a time.

    It stays exact where float32 products are rounded to TF32 or bfloat16 on the way in: both hold every code.
    """
    pairs = zip(a.split(EXACT_TERMS, dim=2), b.split(EXACT_TERMS, dim=1), strict=True)
    with torch.autocast(a.device.type, enabled=False):  # it would round the sums to half precision
        parts = [torch.bmm(x.float(), y.float()).to(torch.int32) for x, y in pairs]
    for part in parts[1:]:
        parts[0].add_(part)
    return parts[0]


def _dense(x: Tensor) -> Tensor:
    # oneDNN reads rows or columns that lie in one piece.
    return x if 1 in x.stride()[1:] else x.contiguous()
