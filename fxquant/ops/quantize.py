"""Real numbers to int8 codes and back: the two ends of every quantised operand."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.kernels import cpu, on_cpu_kernels, on_triton_kernels, triton
from fxquant.kernels.checks import check_along, check_range, check_real, check_tensor
from fxquant.numerics import arithmetic
from fxquant.ops.noise import add_noise


def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """
    Return the int8 codes of `x`, any shape: ``clamp(round((x + noise) / scale + zero_point), qmin, qmax)``.

    scale: float32, 0-dim or one per index of `axis`; zero_point: int32 of the same shape, or None for 0. Unsigned 8-bit
    codes are stored minus 128 (`fxquant.numerics.arithmetic.storage_offset`). The arithmetic is float32
    whatever the dtype of `x`. noise: see `fxquant.ops.add_noise`.
    """
    one_scale = axis is None and scale.numel() == 1 and (noise is None or noise.dim() == 1)
    quantizer = cpu.Quantizer(scale, zero_point, None, None, noise, qmin, qmax)
    if one_scale and cpu.quantizes(x) and on_cpu_kernels(x, scale, noise):
        return cpu.quantize(x, quantizer)
    # A compiler makes one kernel of these few steps and what is around them.
    if one_scale and triton.quantizes(x) and not torch.compiler.is_compiling() and on_triton_kernels(x):
        return triton.operators.quantize(x, quantizer)
    check_along(x, scale, zero_point, axis)
    check_range(qmin, qmax)
    check_real("values", x)
    x = x if noise is None else add_noise(x, noise)
    codes = arithmetic.quantize(x, scale, zero_point, qmin, qmax, axis)
    offset = arithmetic.storage_offset(qmax)
    return (codes.sub_(offset) if offset else codes).to(torch.int8)


def dequantize(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None, qmin: int, qmax: int, axis: int | None = None
) -> Tensor:
    """Return ``(code - zero_point) * scale`` as float32, for codes of any shape that `quantize` made with these arguments."""
    check_along(codes, scale, zero_point, axis)
    check_range(qmin, qmax)
    check_tensor("codes", codes, torch.int8)
    return arithmetic.dequantize(codes.float() + arithmetic.storage_offset(qmax), scale, zero_point, axis)
