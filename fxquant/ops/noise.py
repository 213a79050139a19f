"""The noisy bias: noise added to the input of a product, and what it adds to the output taken off the bias."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.kernels.checks import check_optional, check_tensor, misfit


def add_noise(x: Tensor, noise: Tensor) -> Tensor:
    """
    Return ``x + N`` as float32.

    noise is ``(K,)`` for tokens ``(..., K)``; for an image ``(B, C, H, W)`` it is ``(C, kh, kw)``, the same for each patch.
    """
    check_tensor("noise", noise, torch.float32, x.shape[-1:] if noise.dim() == 1 else (*x.shape[-3:-2], None, None))
    if noise.dim() == 1:
        return x.float() + noise
    if noise.numel() == 0:
        raise misfit("noise", noise, None, "of at least one element")
    rows, columns = (-(-size // period) for size, period in zip(x.shape[-2:], noise.shape[-2:], strict=True))
    return x.float() + noise.repeat(1, rows, columns)[:, : x.shape[-2], : x.shape[-1]]


def denoise_bias(bias: Tensor | None, noise: Tensor, weight: Tensor) -> Tensor:
    """
    Return ``bias - W N`` as float32 ``(O,)`` (NoisyQuant, equation 6).

    noise is ``(K,)`` for a weight ``(O, K)``, ``(C, kh, kw)`` for ``(O, C, kh, kw)``; a bias of None is 0.
    """
    check_tensor("noise", noise, None, weight.shape[1:])
    check_optional("bias", bias, None, weight.shape[:1])
    response = (weight.float() * noise.float()).flatten(1).sum(1)
    return -response if bias is None else bias.float() - response
