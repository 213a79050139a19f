"""
The Python functions that call the operators ``fxquant::cpu_*`` of inference.

A quantiser is the tuple ``(scale, zero_point, low, split, noise, qmin, qmax)`` of arguments of `fxquant.ops.quantize` and
`quantize_twin`. low and split are None where it is uniform.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.errors import InputError
from fxquant.kernels.activation_table import DEGREE, SEGMENTS, gelu_table
from fxquant.kernels.checks import (
    check_attention,
    check_depth,
    check_layer_norm,
    check_linear,
    check_optional,
    check_quantizer,
    check_range,
    check_result,
    check_rows,
    check_tensor,
)
from fxquant.kernels.cpu.schemas import KERNELS
from fxquant.kernels.fake import register_fake
from fxquant.kernels.quantizer import NO_QUANTIZER, NO_ROWS, Quantizer, Rows

LANES = 16
_FLOAT32 = torch.finfo(torch.float32)


def pack(weight: Tensor, outputs: int, depth: int) -> tuple[Tensor, Tensor]:
    """
    Return the weight in the order that the product reads, and ``-128 * sum_k weight[o, k]`` (int32, O rounded up to 16).

    weight: ``(O', K')`` int8. Its first `outputs` rows and `depth` columns count; `depth` is a multiple of 4.
    """
    packed: tuple[Tensor, Tensor] = KERNELS.cpu_pack(weight, outputs, depth)
    return packed


def fits(codes: Tensor, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> bool:
    """Say whether `linear` takes these operands."""
    floats = dtype in (torch.float32, torch.bfloat16)
    return (
        floats
        and codes.dim() > 0
        and codes.shape[-1] % 4 == 0
        and weight.dtype is torch.int8
        and scale.dtype is torch.float32
    )


def quantizes(x: Tensor) -> bool:
    """Say whether `quantize` and `layer_norm_quantize` take values such as `x`."""
    return x.dtype in (torch.float32, torch.bfloat16) and x.numel() > 0 and x.dim() > 0


def attends(factor: float, q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Say whether `attention_quantize` takes these operands."""
    same = q.dtype is k.dtype is v.dtype and q.dim() == k.dim() == v.dim() == 4 and q.shape[-1] == v.shape[-1]
    return (
        same
        and q.dtype in (torch.float32, torch.bfloat16)
        and q.shape[-1] % LANES == 0
        and _FLOAT32.tiny <= factor <= _FLOAT32.max
    )


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
    """Pack the weight and return `packed_linear`. Packing reads the weight once more than the product does."""
    packed, compensation = pack(weight, scale.numel(), codes.shape[-1])
    return packed_linear(
        *(codes, packed, compensation, scale, bias, dtype),
        low=low,
        gelu=gelu,
        residual=residual,
        quantizer=quantizer,
        rows=rows,
    )


def packed_linear(
    codes: Tensor,
    packed: Tensor,
    compensation: Tensor,
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

    packed, compensation: what `pack` returns.
    low: the scale of the low range of a twin-uniform input; None where the input is uniform.
    gelu: the approximation of GELU, None for no GELU.
    residual: ``(..., O)`` of any float dtype, cast to `dtype` and added where there is neither GELU nor a quantiser.
    quantizer: makes the result int8 codes; None leaves it in `dtype`.
    rows: scale and zero point ``(...)`` of each row of the codes, as `fxquant.ops.quantize_tokens` gives them.

    Values are rounded to `dtype` after each of these steps, as separate operators would round.
    """
    table = None if gelu is None else gelu_table(gelu)
    result: Tensor = KERNELS.cpu_gemm(
        *(codes, packed, compensation, scale, low, bias, table, residual),
        *(quantizer or NO_QUANTIZER),
        dtype is torch.bfloat16,
        *rows,
    )
    return result


def layer_norm_quantize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float, quantizer: Quantizer
) -> Tensor:
    """Return the int8 codes of the layer norm of `x` ``(..., C)``, float32 or bfloat16, over its last axis."""
    q = quantizer
    codes: Tensor = KERNELS.cpu_layer_norm_quantize(
        *(x, _float32(weight), _float32(bias), epsilon, q.scale, q.zero_point, q.qmin, q.qmax, q.noise)
    )
    return codes


def layer_norm_quantize_tokens(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float, symmetric: bool, qmin: int, qmax: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `fxquant.ops.layer_norm_quantize_tokens` does, of float32 or bfloat16."""
    made: tuple[Tensor, Tensor, Tensor] = KERNELS.cpu_layer_norm_quantize_tokens(
        x, _float32(weight), _float32(bias), epsilon, symmetric, qmin, qmax
    )
    return made


def quantize_tokens(x: Tensor, symmetric: bool, qmin: int, qmax: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `fxquant.ops.quantize_tokens` does, of float32 or bfloat16."""
    made: tuple[Tensor, Tensor, Tensor] = KERNELS.cpu_quantize_tokens(x, symmetric, qmin, qmax)
    return made


def packed_linear_tokens(
    codes: Tensor,
    packed: Tensor,
    compensation: Tensor,
    scale: Tensor,
    bias: Tensor,
    dtype: torch.dtype,
    symmetric: bool,
    qmin: int,
    qmax: int,
    *,
    low: Tensor | None = None,
    gelu: str | None = None,
    rows: Rows = NO_ROWS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `quantize_tokens` does of `packed_linear`, whose values never leave the cache."""
    table = None if gelu is None else gelu_table(gelu)
    made: tuple[Tensor, Tensor, Tensor] = KERNELS.cpu_gemm_tokens(
        *(codes, packed, compensation, scale, low, bias, table),
        *(symmetric, qmin, qmax, dtype is torch.bfloat16),
        *rows,
    )
    return made


def quantize(x: Tensor, quantizer: Quantizer) -> Tensor:
    """Return the int8 codes of `x`, any shape, float32 or bfloat16."""
    q = quantizer
    codes: Tensor = KERNELS.cpu_quantize(x, q.scale, q.zero_point, q.low, q.split, q.qmin, q.qmax, q.noise)
    return codes


def attention_quantize(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    factor: float,
    bias: Tensor | None,
    mask: Tensor | None,
    quantizer: Quantizer | None,
) -> Tensor:
    """Return the int8 codes ``(B, N, H D)`` of `fxquant.ops.attention_quantize`, None: the values; D is a multiple of 16."""
    to = quantizer or Quantizer(*NO_QUANTIZER)  # type: ignore[arg-type]
    codes: Tensor = KERNELS.cpu_attention(
        *(q, k, v, factor, _float32(bias), _float32(mask), to.scale, to.zero_point, to.qmin, to.qmax, to.noise)
    )
    return codes


def _float32(x: Tensor | None) -> Tensor | None:
    return x.float() if x is not None and x.is_floating_point() else x


@register_fake("fxquant::cpu_pack")
def _(weight: Tensor, outputs: int, depth: int) -> tuple[Tensor, Tensor]:
    check_tensor("weight", weight, torch.int8, (None, None))
    _check_depth(depth)
    if not (0 < outputs <= weight.shape[0] and depth <= weight.shape[1]):
        raise InputError(f"expected outputs and depth within {tuple(weight.shape)}, found {outputs} and {depth}")
    return weight.new_empty(_width(outputs) * depth), weight.new_empty(_width(outputs), dtype=torch.int32)


@register_fake("fxquant::cpu_gemm")
def _(
    codes: Tensor,
    packed: Tensor,
    compensation: Tensor,
    scale: Tensor,
    scale_low: Tensor | None,
    bias: Tensor,
    activation: Tensor | None,
    residual: Tensor | None,
    q_scale: Tensor | None,
    q_zero_point: Tensor | None,
    q_low: Tensor | None,
    q_split: Tensor | None,
    q_noise: Tensor | None,
    qmin: int,
    qmax: int,
    bfloat16: bool,
    row_scale: Tensor | None = None,
    row_zero_point: Tensor | None = None,
) -> Tensor:
    product = (codes, packed, compensation, scale, scale_low, bias, activation)
    dtype = _check_product(*product, residual, bfloat16, (row_scale, row_zero_point))
    if residual is not None and (activation is not None or q_scale is not None):
        raise InputError("a residual is added to float results without GELU only")
    check_result(q_scale, q_zero_point, q_low, q_split, q_noise, qmin, qmax, columns=scale.shape[0])
    return codes.new_empty((*codes.shape[:-1], scale.shape[0]), dtype=dtype if q_scale is None else torch.int8)


@register_fake("fxquant::cpu_gemm_tokens")
def _(
    codes: Tensor,
    packed: Tensor,
    compensation: Tensor,
    scale: Tensor,
    scale_low: Tensor | None,
    bias: Tensor,
    activation: Tensor | None,
    symmetric: bool,
    qmin: int,
    qmax: int,
    bfloat16: bool,
    row_scale: Tensor | None = None,
    row_zero_point: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    product = (codes, packed, compensation, scale, scale_low, bias, activation)
    _check_product(*product, None, bfloat16, (row_scale, row_zero_point))
    return _tokens_like(codes, (*codes.shape[:-1], scale.shape[0]), qmin, qmax)


@register_fake("fxquant::cpu_layer_norm_quantize")
def _(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
    scale: Tensor,
    zero_point: Tensor | None,
    qmin: int,
    qmax: int,
    noise: Tensor | None,
) -> Tensor:
    check_layer_norm(x, weight, bias, epsilon)
    for name, each in (("weight", weight), ("bias", bias)):
        check_optional(name, each, torch.float32, x.shape[-1:])
    check_quantizer(Quantizer(scale, zero_point, None, None, noise, qmin, qmax), x.shape[-1])
    return x.new_empty(x.shape, dtype=torch.int8)


@register_fake("fxquant::cpu_layer_norm_quantize_tokens")
def _(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float, symmetric: bool, qmin: int, qmax: int
) -> tuple[Tensor, Tensor, Tensor]:
    check_layer_norm(x, weight, bias, epsilon)
    for name, each in (("weight", weight), ("bias", bias)):
        check_optional(name, each, torch.float32, x.shape[-1:])
    return _tokens_like(x, x.shape, qmin, qmax)


@register_fake("fxquant::cpu_quantize_tokens")
def _(x: Tensor, symmetric: bool, qmin: int, qmax: int) -> tuple[Tensor, Tensor, Tensor]:
    check_rows(x)
    return _tokens_like(x, x.shape, qmin, qmax)


@register_fake("fxquant::cpu_quantize")
def _(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    low: Tensor | None,
    split: Tensor | None,
    qmin: int,
    qmax: int,
    noise: Tensor | None,
) -> Tensor:
    check_rows(x)
    check_quantizer(Quantizer(scale, zero_point, low, split, noise, qmin, qmax), x.shape[-1])
    return x.new_empty(x.shape, dtype=torch.int8)


@register_fake("fxquant::cpu_attention")
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    bias: Tensor | None,
    mask: Tensor | None,
    q_scale: Tensor | None,
    q_zero_point: Tensor | None,
    qmin: int,
    qmax: int,
    noise: Tensor | None,
) -> Tensor:
    check_attention(q, k, v, scale, bias, mask)
    for name, each in (("bias", bias), ("mask", mask)):
        check_optional(name, each, torch.float32, (None, q.shape[2], k.shape[2]))
    if not attends(scale, q, k, v):
        raise InputError(
            f"expected float32 or bfloat16, heads of a multiple of {LANES} and a positive factor, found {scale}"
        )
    width = q.shape[1] * q.shape[3]
    check_result(q_scale, q_zero_point, None, None, noise, qmin, qmax, columns=width)
    return q.new_empty((q.shape[0], q.shape[2], width), dtype=q.dtype if q_scale is None else torch.int8)


def _check_product(
    codes: Tensor,
    packed: Tensor,
    compensation: Tensor,
    scale: Tensor,
    scale_low: Tensor | None,
    bias: Tensor,
    activation: Tensor | None,
    residual: Tensor | None,
    bfloat16: bool,
    rows: Rows,
) -> torch.dtype:
    """Refuse what is not the operands of a product with a packed weight, and return the dtype of its float result."""
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    check_linear(codes, None, scale, bias, dtype, low=scale_low, residual=residual, rows=rows)
    outputs, depth = scale.shape[0], codes.shape[-1]
    _check_depth(depth)
    check_tensor("packed weight", packed, torch.int8, (_width(outputs) * depth,))
    check_tensor("compensation", compensation, torch.int32, (_width(outputs),))
    check_optional("table of the activation", activation, torch.float32, (DEGREE + 1, SEGMENTS))
    return dtype


def _tokens_like(x: Tensor, shape: tuple[int, ...], qmin: int, qmax: int) -> tuple[Tensor, Tensor, Tensor]:
    check_range(qmin, qmax)
    rows = shape[:-1]
    kinds = ((shape, torch.int8), (rows, torch.float32), (rows, torch.int32))
    codes, scale, zero_point = (x.new_empty(shape, dtype=dtype) for shape, dtype in kinds)
    return codes, scale, zero_point


def _width(outputs: int) -> int:
    return (outputs + LANES - 1) // LANES * LANES


def _check_depth(depth: int) -> None:
    check_depth("depth", depth)
    if depth % 4 != 0:
        raise InputError(f"expected a depth that is a multiple of 4, found {depth}")
