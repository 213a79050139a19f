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
    (int32). A range further than half a step from zero, such as a single value, has no zero point among the codes: it is
    widened to hold zero. FQ-ViT clamps its zero point there, and most of such a range saturates.
    """
    minimum, maximum = _with_zero(minimum.float(), maximum.float(), qmax - qmin)
    scale = ((maximum - minimum) / (qmax - qmin)).clamp(min=EPS)
    zero_point = (qmin - torch.round(minimum / scale)).clamp(qmin, qmax)
    return scale, zero_point.to(torch.int32)


def token_qparams(x: Tensor, symmetric: bool, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """
    Return scale (float32) and zero point (int32), ``(...)`` each, of every row of `x` ``(..., C)``.

    The range of a row is that of its values and zero. Symmetric codes have the zero point 0.
    """
    minimum, maximum = x.amin(-1).float().clamp_(max=0), x.amax(-1).float().clamp_(min=0)
    if not symmetric:
        return affine_qparams(minimum, maximum, qmin, qmax)
    scale = symmetric_scale(minimum, maximum, qmin, qmax)
    return scale, torch.zeros_like(scale, dtype=torch.int32)


def quantize_tokens(x: Tensor, symmetric: bool, qmin: int, qmax: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the codes ``(..., C)`` of `x` as float32, and scale and zero point of each row, by `token_qparams`."""
    scale, zero_point = token_qparams(x, symmetric, qmin, qmax)
    return quantize(x, scale[..., None], zero_point[..., None], qmin, qmax), scale, zero_point


def _with_zero(minimum: Tensor, maximum: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return the range, widened to hold zero where that lies more than half of one of its `steps` outside."""
    half = (maximum - minimum) / steps / 2
    return minimum.where(minimum <= half, 0), maximum.where(maximum >= -half, 0)


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


def quantize_log2(x: Tensor, qmax: int) -> Tensor:
    """
    Return ``q = round(-log2 x)`` of probabilities, as float32; -1 stands for 0, which is what lies beyond ``2^-qmax`` (FQ-ViT).

    Rounds half to even.
    """
    exponent = (-torch.log2(x.float())).round_()
    return torch.where(exponent > qmax, -1.0, exponent.clamp_(min=0))


def dequantize_log2(codes: Tensor) -> Tensor:
    """Return ``2^-q``, and 0 for -1, as float32."""
    return torch.where(codes < 0, 0.0, torch.exp2(-codes.float()))


LN2 = 0.6931  # as FQ-ViT's code has it
EXP_COEFFICIENTS = (0.35815147, 0.96963238, 1.0)  # exp(x) on (-ln 2, 0] is about a x^2 + b x + c (I-BERT, equation 13)
EXP_SHIFTS = 30
LARGEST_STEP = (
    EXP_COEFFICIENTS[2] / EXP_COEFFICIENTS[0]
) ** 0.5  # of the scores: beyond, the polynomial has no integers left


def integer_exponential(steps: Tensor, scale: Tensor) -> Tensor:
    """
    Return ``exp(steps * scale)`` times one integer factor, for ``steps <= 0`` in units of `scale`: integers as float32.

    scale: float32, 0-dim or broadcastable (I-BERT, algorithm 2, with FQ-ViT's constants).
    """
    a, b, c = EXP_COEFFICIENTS
    unit = torch.floor(-LN2 / scale)
    steps = torch.maximum(steps, EXP_SHIFTS * unit)
    shifts = torch.floor(steps / unit)
    rest = steps - unit * shifts
    # A product, not a power: AOTInductor cannot take the power of a constant.
    polynomial = rest * (rest + torch.floor((b / a) / scale)) + torch.floor((c / a) / (scale * scale))
    return torch.floor(polynomial * torch.exp2(EXP_SHIFTS - shifts)).clamp_(min=0)


def log_int_softmax(scores: Tensor, scale: Tensor, qmax: int) -> Tensor:
    """
    Return the softmax of `scores` over the last axis as the codes of `quantize_log2`, float32.

    scale: of the quantised scores, 0-dim, or ``(H,)`` for heads on axis 1, at most `LARGEST_STEP`. The inverse of a
    probability is rounded to an integer. Its logarithm is the place of its highest bit, and one more where the integer reaches
    halfway to the next power of two (FQ-ViT, section 3.3). Rows of the result need not sum to 1.
    """
    steps = scores.float() / along(scale, scores.dim(), 1)
    steps = steps - steps.amax(-1, keepdim=True)
    powers = integer_exponential(steps, along(scale, scores.dim(), 1))
    inverse = torch.round(powers.sum(-1, keepdim=True) / powers)
    exponent = torch.floor(torch.log2(inverse))
    exponent += inverse - torch.exp2(exponent) >= torch.exp2(exponent - 1)
    return torch.where(exponent > qmax, -1.0, exponent)


MULTIPLIER_BITS = 8
SHIFTS = 31


def integer_layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, scale: Tensor) -> Tensor:
    """
    Return the layer norm over the last axis of integers `x` ``(..., C)``, int64, as integers in units of `scale`.

    Mean and deviation come from the exact sums of x and its squares; each channel of each token is then one multiplication by
    an integer of 8 bits, one addition and one shift, which rounds half to even (FQ-ViT, section 3.2). There is no epsilon.
    weight, bias: ``(C,)`` or None for 1 and 0.
    """
    count = x.shape[-1]
    total, squares = x.sum(-1, keepdim=True), x.square().sum(-1, keepdim=True)
    spread = (count * squares - total.square()).clamp(min=1).double().sqrt()  # C times the standard deviation
    gain = torch.ones(count, dtype=torch.float64, device=x.device) if weight is None else weight.double()
    offset = torch.zeros_like(gain) if bias is None else bias.double()
    slope = gain / scale.double() * count / spread
    intercept = offset / scale.double() - total.double() / count * slope
    shift = (MULTIPLIER_BITS - 1 - torch.floor(torch.log2(slope.abs()))).clamp(0, SHIFTS)
    multiplier = torch.floor(slope.abs() * torch.exp2(shift)).clamp(0, 2**MULTIPLIER_BITS - 1) * slope.sign()
    sums = multiplier.long() * x + torch.round(intercept * torch.exp2(shift)).long()
    return torch.round(sums.double() * torch.exp2(-shift)).long()


def sqnr(reference: Tensor, approximation: Tensor) -> float:
    """Return the signal-to-quantisation-noise ratio ``10 log10(|r|^2 / |r - a|^2)`` in dB (inf when equal)."""
    noise = (reference.double() - approximation.double()).square().sum()
    return float(10 * torch.log10(reference.double().square().sum() / noise))
