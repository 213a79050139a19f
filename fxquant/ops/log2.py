"""Probabilities to powers of two and back."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.kernels.checks import check_along, check_range, check_tensor
from fxquant.numerics import arithmetic


def quantize_log2(x: Tensor, qmax: int) -> Tensor:
    """Return int8 codes of probabilities, any shape: exponents of `fxquant.numerics.arithmetic.quantize_log2`, -1 for zero."""
    check_tensor("probabilities", x, None)
    check_range(0, qmax, twin=True)
    return arithmetic.quantize_log2(x, qmax).to(torch.int8)


def log_int_softmax(scores: Tensor, scale: Tensor, qmax: int) -> Tensor:
    """
    Return the softmax over the last axis of scores ``(B, H, N, M)`` as codes of `quantize_log2`, computed on integers.

    scale: of the quantised scores, float32, 0-dim or ``(H,)``: see `fxquant.numerics.arithmetic.log_int_softmax`.
    """
    check_tensor("scores", scores, None)
    check_along(scores, scale, None, 1 if scale.dim() else None)
    check_range(0, qmax, twin=True)
    return arithmetic.log_int_softmax(scores, scale, qmax).to(torch.int8)


def dequantize_log2(codes: Tensor) -> Tensor:
    """Return ``2^-code`` as float32 for codes of any shape, and 0 where the code is -1."""
    check_tensor("codes", codes, torch.int8)
    return arithmetic.dequantize_log2(codes)
