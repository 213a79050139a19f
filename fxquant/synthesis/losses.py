"""The total variation of a batch of images, which keeps synthesised images smooth."""

from __future__ import annotations

import torch
from torch import Tensor


def total_variation(images: Tensor) -> Tensor:
    """
    Return the total variation of images ``(B, C, H, W)``, a scalar.

    It is the sum of four Frobenius norms over the whole batch: those of the differences between neighbours in a row, in a
    column and on both diagonals (PSAQ-ViT, Li et al., ECCV 2022, as published). It grows with the square root of B, H and
    W.
    """
    differences = (
        images[..., :, :-1] - images[..., :, 1:],
        images[..., :-1, :] - images[..., 1:, :],
        images[..., :-1, :-1] - images[..., 1:, 1:],
        images[..., :-1, 1:] - images[..., 1:, :-1],
    )
    return torch.stack([torch.linalg.vector_norm(d) for d in differences]).sum()
