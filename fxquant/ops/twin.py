"""Real numbers to twin-uniform codes and back, and the byte layout of the codes."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.errors import InputError
from fxquant.kernels import cpu, on_cpu_kernels, on_triton_kernels, triton
from fxquant.kernels.checks import check_given, check_one, check_quantizer, check_range, check_real, check_tensor
from fxquant.numerics import arithmetic
from fxquant.ops.noise import add_noise


def quantize_twin(
    x: Tensor, high: Tensor, low: Tensor, split: Tensor, qmin: int, qmax: int, noise: Tensor | None = None
) -> Tensor:
    """
    Return the int8 codes of `x`, any shape: ``clamp(round(x / (high if x >= split else low)), qmin, qmax)``.

    The sign of a code names its range: see `fxquant.numerics.arithmetic.quantize_twin`. noise, see `fxquant.ops.add_noise`,
    is added to `x` before all else.
    """
    check_given(low=low, split=split)
    one_scale = high.numel() == 1 and (noise is None or noise.dim() == 1)
    quantizer = cpu.Quantizer(high, None, low, split, noise, qmin, qmax)
    if one_scale and cpu.quantizes(x) and on_cpu_kernels(x, high, noise):
        return cpu.quantize(x, quantizer)
    # A compiler makes one kernel of these few steps and what is around them.
    if one_scale and triton.quantizes(x) and not torch.compiler.is_compiling() and on_triton_kernels(x):
        return triton.operators.quantize(x, quantizer)
    _check(x, high, low, split, qmin, qmax)
    x = x if noise is None else add_noise(x, noise)
    return arithmetic.quantize_twin(x, high, low, split, qmin, qmax).to(torch.int8)


def dequantize_twin(codes: Tensor, high: Tensor, low: Tensor, split: Tensor, qmin: int, qmax: int) -> Tensor:
    """Return ``code * (high if code > 0 else low)`` as float32, for codes made by `quantize_twin` with the same arguments."""
    check_tensor("codes", codes, torch.int8)
    _check(codes, high, low, split, qmin, qmax)
    return arithmetic.dequantize_twin(codes, high, low)


def fake_quantize_summed_twin(x: Tensor, split: Tensor, qmax: int) -> Tensor:
    """
    Return softmax probabilities ``(..., M)`` rounded as PTQ4ViT's published code does, as float32.

    It adds the rounded values of both ranges, so there is no single code for a value and no int8 form. split: where the ranges
    part; qmax: the largest code of each.
    """
    check_one("split", split, torch.float32)
    check_range(0, qmax, twin=True)
    return arithmetic.fake_quantize_summed_twin(x, split, qmax)


def _check(x: Tensor, high: Tensor, low: Tensor, split: Tensor, qmin: int, qmax: int) -> None:
    check_real("values", x)
    check_quantizer(cpu.Quantizer(high, None, low, split, None, qmin, qmax), None)


def pack_twin(codes: Tensor) -> Tensor:
    """
    Return codes in the layout of PTQ4ViT: uint8, the top bit 1 for the high range, below it the magnitude, 0..127.

    Zero is stored as 0. Takes the codes of `quantize_twin`; -128, which only the published GELU form has, does not fit and
    raises `InputError`.
    """
    check_tensor("codes", codes, torch.int8)
    if bool((codes == -128).any()):
        raise InputError("code -128 has no place in the twin layout: quantise with published=False")
    return torch.where(codes > 0, codes.abs().to(torch.uint8) | 0x80, codes.abs().to(torch.uint8))


def unpack_twin(packed: Tensor) -> Tensor:
    """Return the int8 codes, any shape, that `pack_twin` packed into uint8."""
    check_tensor("packed codes", packed, torch.uint8)
    magnitude = (packed & 0x7F).to(torch.int8)
    return torch.where(packed >= 0x80, magnitude, -magnitude)
