"""The noisy bias: noise added to the input of a product, and what it adds to the output taken off the bias."""

from __future__ import annotations

from torch import Tensor


def add_noise(x: Tensor, noise: Tensor) -> Tensor:
    """
    Return ``x + N`` as float32.

    noise is ``(K,)`` for tokens ``(..., K)``; for an image ``(B, C, H, W)`` it is ``(C, kh, kw)``, the same for each patch.
    """
    if noise.dim() == 1:
        return x.float() + noise
    rows, columns = (-(-size // period) for size, period in zip(x.shape[-2:], noise.shape[-2:], strict=True))
    return x.float() + noise.repeat(1, rows, columns)[:, : x.shape[-2], : x.shape[-1]]


def denoise_bias(bias: Tensor | None, noise: Tensor, weight: Tensor) -> Tensor:
    """
    Return ``bias - W N`` as float32 ``(O,)`` (NoisyQuant, equation 6).

    noise is ``(K,)`` for a weight ``(O, K)``, ``(C, kh, kw)`` for ``(O, C, kh, kw)``; a bias of None is 0.
    """
    response = (weight.float() * noise.float()).flatten(1).sum(1)
    return -response if bias is None else bias.float() - response
