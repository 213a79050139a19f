"""
The operators ``fxquant::triton_*``, and the Python functions that call them, with the signatures of `fxquant.kernels.cpu`.

Compilers see through the operators to the kernels, and choose tiles for them. Under Triton's interpreter the operators are
opaque. Everything that a kernel reads stays on the device and nothing waits for it, so that CUDA graphs can record the
calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import triton
from torch import Tensor
from torch.library import custom_op, triton_op

from fxquant.kernels.cpu import Quantizer
from fxquant.kernels.fake import register_fake
from fxquant.kernels.quantizer import NO_ROWS, Rows
from fxquant.kernels.triton.arithmetic import INTERPRETED
from fxquant.kernels.triton.batched import batched
from fxquant.kernels.triton.gemm import gemm
from fxquant.kernels.triton.layer_norm import layer_norm
from fxquant.kernels.triton.quantize import quantize_values
from fxquant.kernels.triton.results import layer_norm_result, linear_result, matmul_result, quantize_result

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
GELUS: Mapping[str | None, int] = {None: 0, "none": 1, "tanh": 2}
DEEPEST_TILE = 128  # elements of K that a tile holds at most: where they divide K, nothing needs a mask

_NO_QUANTIZER = (None, None, None, None, None, 0, 0)
_operator: Callable[..., Any] = custom_op if INTERPRETED else triton_op
# Under the name that torch looks for, to know which kernels a compiled graph depends on.
wrap_triton: Callable[[Any], Any] = (lambda kernel: kernel) if INTERPRETED else torch.library.wrap_triton


def linear(
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    dtype: torch.dtype,
    *,
    low: Tensor | None = None,
    gelu: str | None = None,
    residual: Tensor | None = None,
    quantizer: Quantizer | None = None,
    rows: Rows = NO_ROWS,
) -> Tensor:
    """
    Return a linear layer on int8 codes ``(..., K)`` as ``(..., O)``: product, scale, bias, GELU or residual, codes.

    weight: ``(O', K')`` int8, whose first ``(O, K)`` count.
    scale, bias: ``(O,)``, as in `fxquant.ops.int8_linear`.
    low: the scale of the low range of a twin-uniform input; None where the input is uniform.
    gelu: the approximation of GELU, None for no GELU.
    residual: ``(..., O)``, added last, in `dtype`.
    quantizer: makes the result int8 codes; None leaves it in `dtype`.
    rows: scale and zero point ``(...)`` of each row of the codes, as `fxquant.ops.quantize_tokens` gives them.

    Values are rounded to `dtype` after each of these steps, as separate operators would round.
    """
    result: Tensor = triton_linear(
        codes, weight, scale, low, bias, residual, gelu, dtype, *(quantizer or _NO_QUANTIZER), *rows
    )
    return result


def layer_norm_quantize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float, quantizer: Quantizer
) -> Tensor:
    """Return the int8 codes of the layer norm of `x` ``(..., C)`` over its last axis."""
    q = quantizer
    codes: Tensor = triton_layer_norm_quantize(x, weight, bias, epsilon, q.scale, q.zero_point, q.noise, q.qmin, q.qmax)
    return codes


def quantize(x: Tensor, quantizer: Quantizer) -> Tensor:
    """Return the int8 codes of `x`, any shape."""
    codes: Tensor = triton_quantize(x, *quantizer)
    return codes


def matmul(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    low: Tensor | None,
    a_zero_point: Tensor | None,
    b_zero_point: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """
    Return a product of int8 codes ``(..., N, K)`` and ``(..., K, M)`` as ``(..., N, M)`` in `dtype`.

    The arguments are those of `fxquant.ops.int8_matmul`. low: `a` is twin-uniform, as in `int8_matmul_twin`.
    """
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    x, y = (_four_axes(t, batch) for t in (a, b))
    product: Tensor = triton_matmul(x, y, scale, low, a_zero_point, b_zero_point, dtype)
    return product.reshape(*batch, a.shape[-2], b.shape[-1])


def _four_axes(t: Tensor, batch: torch.Size) -> Tensor:
    """Return `t` as ``(B, H, rows, columns)``, where H is the last axis of the batch. Scales may differ along H."""
    heads = batch[-1] if batch else 1
    return t.expand(*batch, *t.shape[-2:]).reshape(math.prod(batch[:-1]), heads, *t.shape[-2:])


@_operator("fxquant::triton_linear", mutates_args=())
def triton_linear(
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    low: Tensor | None,
    bias: Tensor,
    residual: Tensor | None,
    gelu: str | None,
    dtype: torch.dtype,
    q_scale: Tensor | None,
    q_zero_point: Tensor | None,
    q_low: Tensor | None,
    q_split: Tensor | None,
    q_noise: Tensor | None,
    qmin: int,
    qmax: int,
    row_scale: Tensor | None = None,
    row_zero_point: Tensor | None = None,
) -> Tensor:
    """Run the kernel of `linear`. In place of a tensor that the kernel does not read, it gets the scale."""
    quantizer = (q_scale, q_zero_point, q_low, q_split, q_noise, qmin, qmax)
    out = linear_result(codes, weight, scale, low, bias, residual, gelu, dtype, *quantizer, row_scale, row_zero_point)
    scale, bias = scale.contiguous(), bias.contiguous()
    residual = None if residual is None else residual.to(dtype)
    low, q_noise, residual, row_scale, row_zero_point = (
        _whole(t) for t in (low, q_noise, residual, row_scale, row_zero_point)
    )
    rows = _dense(codes.reshape(-1, codes.shape[-1]))
    weight = _dense(weight)
    (M, K), N = rows.shape, scale.shape[0]
    pointers = (low, bias, residual, row_scale, row_zero_point, out, q_scale, q_zero_point, q_low, q_split, q_noise)
    wrap_triton(gemm)[lambda tile: (triton.cdiv(M, tile["BLOCK_M"]) * triton.cdiv(N, tile["BLOCK_N"]),)](
        *(rows, weight, scale, *(scale if p is None else p for p in pointers)),
        *(M, N, K, rows.stride(0), weight.stride(0), _bucket(M)),
        EVEN_K=bool(K % DEEPEST_TILE == 0),
        TWIN_INPUT=low is not None,
        OWN_SCALES=row_scale is not None,
        GELU=GELUS[gelu],
        RESIDUAL=residual is not None,
        DTYPE=DTYPES[dtype],
        CODES=_kind(q_scale, q_low),
        ZERO_POINT=q_zero_point is not None,
        NOISE=q_noise is not None,
        QMIN=qmin,
        QMAX=qmax,
    )
    return out


@_operator("fxquant::triton_layer_norm_quantize", mutates_args=())
def triton_layer_norm_quantize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
    q_scale: Tensor,
    q_zero_point: Tensor | None,
    q_noise: Tensor | None,
    qmin: int,
    qmax: int,
) -> Tensor:
    """Run the kernel of `layer_norm_quantize`."""
    out = layer_norm_result(x, weight, bias, epsilon, q_scale, q_zero_point, q_noise, qmin, qmax)
    weight, bias, q_noise = (_whole(t) for t in (weight, bias, q_noise))
    rows = _dense(x.reshape(-1, x.shape[-1]))
    M, C = rows.shape
    pointers = (weight, bias, out, q_scale, q_zero_point, q_noise)
    wrap_triton(layer_norm)[lambda tile: (triton.cdiv(M, tile["ROWS"]),)](
        *(rows, *(q_scale if p is None else p for p in pointers)),
        *(M, C, rows.stride(0), _bucket(M), epsilon),
        WEIGHT=weight is not None,
        BIAS=bias is not None,
        ZERO_POINT=q_zero_point is not None,
        NOISE=q_noise is not None,
        QMIN=qmin,
        QMAX=qmax,
        BLOCK_C=triton.next_power_of_2(int(C)),
    )
    return out


@_operator("fxquant::triton_quantize", mutates_args=())
def triton_quantize(
    x: Tensor,
    q_scale: Tensor,
    q_zero_point: Tensor | None,
    q_low: Tensor | None,
    q_split: Tensor | None,
    q_noise: Tensor | None,
    qmin: int,
    qmax: int,
) -> Tensor:
    """Run the kernel of `quantize`."""
    out = quantize_result(x, q_scale, q_zero_point, q_low, q_split, q_noise, qmin, qmax)
    x, q_noise = x.contiguous(), _whole(q_noise)
    count = x.numel()
    pointers = (q_zero_point, q_low, q_split, q_noise)
    wrap_triton(quantize_values)[lambda tile: (triton.cdiv(count, tile["BLOCK"]),)](
        *(x, out, q_scale, *(q_scale if p is None else p for p in pointers)),
        *(count, x.shape[-1] if x.dim() else 1, _bucket(count)),
        CODES=_kind(q_scale, q_low),
        ZERO_POINT=q_zero_point is not None,
        NOISE=q_noise is not None,
        QMIN=qmin,
        QMAX=qmax,
    )
    return out


@_operator("fxquant::triton_matmul", mutates_args=())
def triton_matmul(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    low: Tensor | None,
    a_zero_point: Tensor | None,
    b_zero_point: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Run the kernel of `matmul` on codes ``(B, H, N, K)`` and ``(B, H, K, M)``."""
    out = matmul_result(a, b, scale, low, a_zero_point, b_zero_point, dtype)
    (B, H, M, K), N = a.shape, b.shape[-1]
    per_head = (scale, low, a_zero_point, b_zero_point)
    values = [(scale if t is None else t).contiguous() for t in per_head]
    grid = lambda tile: (B * H * triton.cdiv(M, tile["BLOCK_M"]) * triton.cdiv(N, tile["BLOCK_N"]),)  # noqa: E731
    wrap_triton(batched)[grid](
        *(a, b, *values, out, H, M, N, K, _bucket(B * H), *a.stride(), *b.stride()),
        *(int(t.numel() > 1) for t in values),
        DTYPE=DTYPES[dtype],
        TWIN_INPUT=low is not None,
        A_ZERO_POINT=a_zero_point is not None,
        B_ZERO_POINT=b_zero_point is not None,
    )
    return out


register_fake("fxquant::triton_linear")(linear_result)
register_fake("fxquant::triton_layer_norm_quantize")(layer_norm_result)
register_fake("fxquant::triton_quantize")(quantize_result)
register_fake("fxquant::triton_matmul")(matmul_result)


def _dense(x: Tensor) -> Tensor:
    """Return `x` ``(rows, columns)`` with each row contiguous."""
    return x if x.stride(1) == 1 else x.contiguous()


def _whole(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _bucket(count: int) -> int:
    """Return `count` rounded up to a power of two, so that tiles are chosen per size class; 0 where `count` is symbolic."""
    return int(triton.next_power_of_2(count)) if isinstance(count, int) else 0


def _kind(scale: Tensor | None, low: Tensor | None) -> int:
    return 0 if scale is None else 1 if low is None else 2
