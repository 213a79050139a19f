"""Float attention, and one whose result is codes, its heads side by side as the projection behind it reads them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.kernels import cpu, on_cpu_kernels
from fxquant.kernels.checks import check_attention, check_given
from fxquant.ops.quantize import quantize


def attention_quantize(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    factor: float,
    bias: Tensor | None,
    mask: Tensor | None,
    scale: Tensor,
    zero_point: Tensor | None,
    qmin: int,
    qmax: int,
    noise: Tensor | None = None,
) -> Tensor:
    """
    Return the int8 codes ``(B, N, H D)`` of ``softmax(factor * q @ k.mT + bias + mask) @ v``.

    q ``(B, H, N, D)``, k and v ``(B, H, M, D)``. bias ``(H, N, M)`` or ``(1, N, M)``, such as relative positions; mask
    ``(W, N, M)``, such as that of shifted windows: image b, of B = B' W windows, reads mask ``b % W``. Scores and softmax are
    float32, as in `torch.nn.functional.scaled_dot_product_attention`; the result is rounded to the dtype of q before it
    becomes codes. The last five arguments are those of `fxquant.ops.quantize`, for one scale; noise is ``(H D,)``.
    """
    check_given(scale=scale)
    if cpu.attends(factor, q, k, v) and on_cpu_kernels(q, k, v, bias, mask, scale, noise):
        quantizer = cpu.Quantizer(scale, zero_point, None, None, noise, qmin, qmax)
        return cpu.attention_quantize(q, k, v, factor, bias, mask, quantizer)
    check_attention(q, k, v, factor, bias, mask)
    context = _attend(q, k, v, factor, bias, mask)  # (B, H, N, D)
    return quantize(context.transpose(1, 2).flatten(2), scale, zero_point, qmin, qmax, None, noise)


def attention(q: Tensor, k: Tensor, v: Tensor, factor: float, bias: Tensor | None, mask: Tensor | None) -> Tensor:
    """Return the values ``(B, N, H D)`` that `attention_quantize` makes codes of, in the dtype of q."""
    if cpu.attends(factor, q, k, v) and on_cpu_kernels(q, k, v, bias, mask):
        return cpu.attention_quantize(q, k, v, factor, bias, mask, None)
    check_attention(q, k, v, factor, bias, mask)
    return _attend(q, k, v, factor, bias, mask).transpose(1, 2).flatten(2)


def _attend(q: Tensor, k: Tensor, v: Tensor, factor: float, bias: Tensor | None, mask: Tensor | None) -> Tensor:
    """Attend by the kernels of torch, to which bias and mask are one addend to the scores."""
    addend = None if bias is None else bias.expand(*q.shape[:2], -1, -1)  # (B, H, N, M)
    if mask is not None:
        windows = mask[:, None] if bias is None else bias + mask[:, None]  # (W, H, N, M)
        addend = windows.expand(q.shape[0] // mask.shape[0], -1, q.shape[1], -1, -1).flatten(0, 1)
    # torch lays the result out as the queries are, and leaves parts of it unwritten where these overlap.
    q = q.contiguous() if not torch.compiler.is_compiling() and _overlaps(q) else q
    return F.scaled_dot_product_attention(q, k, v, None if addend is None else addend.to(q.dtype), scale=factor)


def _overlaps(x: Tensor) -> bool:
    """Say whether elements of `x` may lie in one place, as those of `torch.Tensor.unfold` do."""
    reach = 0
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += stride * (size - 1)
    return False
