"""Turn an image into the rows of a matrix product (im2col), on integer codes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fxquant.numerics.arithmetic import storage_offset


def extract_patches(
    codes: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    zero_point: Tensor | None,
    qmax: int,
) -> Tensor:
    """
    Return ``(B, H', W', C*kh*kw)`` windows of ``(B, C, H, W)`` codes, in the order a convolution weight is flattened.

    A padded pixel holds the code of zero, which is the zero point as stored.
    """
    if any(padding):
        rows, columns = padding
        zero = 0 if zero_point is None else zero_point
        shifted = F.pad(codes.int() - (zero - storage_offset(qmax)), (columns, columns, rows, rows))
        codes = (shifted + (zero - storage_offset(qmax))).to(codes.dtype)
    windows = codes.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])
    batch, channels, height, width = windows.shape[:4]
    return windows.permute(0, 2, 3, 1, 4, 5).reshape(batch, height, width, channels * kernel[0] * kernel[1])
