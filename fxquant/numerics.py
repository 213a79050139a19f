"""
Quantisation arithmetic, written once: observers, fake quantisation, lowering and tests all call it.

A *code* is the integer that stands for a real number: ``x ~ (code - zero_point) * scale``. Codes of ``bits`` bits lie in
``[qmin, qmax]``. They are stored as int8; unsigned 8-bit codes (0..255) are stored minus 128, see `storage_offset`.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps
GELU_MINIMUM = -0.16997124254703522  # the least value of x * Phi(x), as the code of PTQ4ViT has it


def code_range(bits: int, signed: bool) -> tuple[int, int]:
    """Return ``(qmin, qmax)``: ``[-2^(b-1), 2^(b-1) - 1]`` signed, ``[0, 2^b - 1]`` unsigned."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def storage_offset(qmax: int) -> int:
    """
    Return what is subtracted from a code so that it fits int8: 128 for unsigned 8-bit codes, else 0.

    The offset is even, so rounding half to even gives the same code before and after it.
    """
    return 128 if qmax > 127 else 0


def symmetric_scale(minimum: Tensor, maximum: Tensor, qmin: int, qmax: int) -> Tensor:
    """
    Return the scale that centres the codes on zero, in float32, never below float32 epsilon.

    Signed codes: ``max(-min, max) / ((qmax - qmin) / 2)``. Unsigned codes: ``max / qmax``.
    """
    if qmin < 0:
        return (torch.maximum(-minimum, maximum).float() / ((qmax - qmin) / 2)).clamp(min=EPS)
    return (maximum.float() / qmax).clamp(min=EPS)


def affine_qparams(minimum: Tensor, maximum: Tensor, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """
    Return ``(scale, zero_point)`` mapping ``[min, max]`` onto ``[qmin, qmax]``.

    ``scale = max(eps, (max - min) / (qmax - qmin))`` and ``zero_point = clamp(qmin - round(min / scale), qmin, qmax)``
    (int32). The range is not widened to hold zero: the zero point is clamped instead (FQ-ViT).
    """
    minimum, maximum = minimum.float(), maximum.float()
    scale = ((maximum - minimum) / (qmax - qmin)).clamp(min=EPS)
    zero_point = (qmin - torch.round(minimum / scale)).clamp(qmin, qmax)
    return scale, zero_point.to(torch.int32)


def widen_single(minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
    """Return the range with every single value, which would give no scale, widened to hold zero."""
    single = minimum == maximum
    return minimum.where(~single, minimum.clamp(max=0)), maximum.where(~single, maximum.clamp(min=0))


def along(values: Tensor, ndim: int, axis: int | None) -> Tensor:
    """Reshape ``(G,)`` values so that they broadcast along `axis` of an `ndim`-dimensional tensor."""
    if axis is None or values.dim() == 0:
        return values
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, qmin: int, qmax: int, axis: int | None = None
) -> Tensor:
    """
    Return ``clamp(round(x / scale + zero_point), qmin, qmax)`` as float32, rounding half to even.

    The zero point is added before the rounding, and `x` is divided by the scale, not multiplied by its reciprocal:
    both decide ties.
    """
    # The quotient is a new tensor, so what follows works in place: eager int8 spends its time on memory.
    steps = x.float() / along(scale, x.dim(), axis)
    if zero_point is not None:
        steps.add_(along(zero_point, x.dim(), axis))
    return steps.round_().clamp_(qmin, qmax)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None = None) -> Tensor:
    """Return ``(codes - zero_point) * scale`` as float32."""
    values = codes.float()
    if zero_point is not None:
        values = values - along(zero_point, codes.dim(), axis)
    return values * along(scale, codes.dim(), axis)


def quantize_twin(x: Tensor, high: Tensor, low: Tensor, split: Tensor, qmin: int, qmax: int) -> Tensor:
    """
    Return the twin-uniform codes of `x` as float32: ``clamp(round(x / (high if x >= split else low)), qmin, qmax)``.

    The sign of a code names its range (PTQ4ViT, section 3.2): positive codes are multiples of the scale `high`, negative ones
    of `low`. After GELU the split is 0 and both scales are positive; after softmax it is ``t = 2^-m`` and `low` is negative,
    so that the negative codes stand for the small probabilities. high, low and split are 0-dim float32.
    """
    x = x.float()
    # One factor is 0 and the other 1, so that each divisor is exact; torch.where takes five times as long on a CPU.
    above = (x >= split).float()
    divisor = above * high + (1 - above).mul_(low)
    return (x / divisor).round_().clamp_(qmin, qmax)


def dequantize_twin(codes: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """Return ``code * (high if code > 0 else low)`` as float32."""
    values = codes.float()
    return values.clamp(min=0).mul_(high).add_(values.clamp(max=0).mul_(low))


def fake_quantize_summed_twin(x: Tensor, split: Tensor, qmax: int) -> Tensor:
    """
    Return softmax probabilities quantised as PTQ4ViT's published code does it: the values of both ranges are added.

    That shifts every value by about `split`; it is here to compare with the published code, not to be used.
    """
    x = x.float()
    high = (x.clamp(split, torch.ones_like(split)) * qmax).round_().clamp_(0, qmax) / qmax
    scale = split / qmax
    return high + (x.clamp(torch.zeros_like(split), split) / scale).round_().clamp_(0, qmax) * scale


def sqnr(reference: Tensor, approximation: Tensor) -> float:
    """Return the signal-to-quantisation-noise ratio ``10 log10(|r|^2 / |r - a|^2)`` in dB (inf when equal)."""
    noise = (reference.double() - approximation.double()).square().sum()
    return float(10 * torch.log10(reference.double().square().sum() / noise))
