"""A layer norm whose result is codes, of one scale or of a scale per token."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fxquant.kernels import cpu, on_cpu_kernels, on_triton_kernels, triton
from fxquant.kernels.checks import check_layer_norm
from fxquant.ops.quantize import quantize
from fxquant.ops.tokens import quantize_tokens


def layer_norm_quantize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
    scale: Tensor,
    zero_point: Tensor | None,
    qmin: int,
    qmax: int,
    noise: Tensor | None = None,
) -> Tensor:
    """
    Return the int8 codes ``(..., C)`` of the layer norm of `x` ``(..., C)`` over its last axis, computed in float32.

    x: any float dtype. weight and bias ``(C,)`` float32, epsilon: those of `torch.nn.functional.layer_norm`. The last five
    arguments are those of `fxquant.ops.quantize`, for one scale.
    """
    quantizer = cpu.Quantizer(scale, zero_point, None, None, noise, qmin, qmax)
    if cpu.quantizes(x) and on_cpu_kernels(x, weight, bias, scale, noise):
        return cpu.layer_norm_quantize(x, weight, bias, epsilon, quantizer)
    if triton.normalizes(x) and on_triton_kernels(x):
        return triton.operators.layer_norm_quantize(x, weight, bias, epsilon, quantizer)
    y = _normalize(x, weight, bias, epsilon)
    return quantize(y, scale, zero_point, qmin, qmax, None, noise)


def layer_norm_quantize_tokens(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float, symmetric: bool, qmin: int, qmax: int
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Return `quantize_tokens` of the layer norm of `x` ``(..., C)`` over its last axis, computed in float32.

    The first four arguments are those of `layer_norm_quantize`.
    """
    if cpu.quantizes(x) and on_cpu_kernels(x, weight, bias):
        return cpu.layer_norm_quantize_tokens(x, weight, bias, epsilon, symmetric, qmin, qmax)
    return quantize_tokens(_normalize(x, weight, bias, epsilon), symmetric, qmin, qmax)


def _normalize(x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float) -> Tensor:
    """Return the layer norm in float32."""
    check_layer_norm(x, weight, bias, epsilon)
    weight, bias = (None if t is None else t.float() for t in (weight, bias))
    return F.layer_norm(x.float(), x.shape[-1:], weight, bias, epsilon)
