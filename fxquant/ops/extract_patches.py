"""Turn an image into the rows of a matrix product (im2col), on integer codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.errors import InputError
from fxquant.kernels.checks import MOST, check_one, check_tensor
from fxquant.numerics import float8
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
    Return the patches ``(B, H', W', C*kh*kw)`` of an image of codes ``(B, C, H, W)``.

    Each patch is flattened as the weight ``(O, C, kh, kw)`` of a convolution is, so that their product is the convolution.
    kernel ``(kh, kw)``, stride and padding: of rows, then of columns. A padded pixel holds the code of zero, which is
    zero_point, int32 0-dim or None for 0, as stored for codes up to qmax (`fxquant.numerics.arithmetic.storage_offset`).
    codes: int8; or e4m3, whose zero_point is None and whose qmax is 127, as their zero is the byte 0.
    """
    if codes.dtype is float8.DTYPE and zero_point is None and qmax == 127:
        return extract_patches(codes.view(torch.int8), kernel, stride, padding, None, qmax).view(codes.dtype)
    check_tensor("codes", codes, torch.int8, (None, None, None, None))
    if zero_point is not None:
        check_one("zero point", zero_point, torch.int32)
    if min(kernel) < 1 or min(stride) < 1 or min(padding) < 0:
        raise InputError(f"expected positive sizes of patches, found {kernel}, steps {stride} and padding {padding}")
    rows, columns = (size + 2 * added for size, added in zip(codes.shape[2:], padding, strict=True))
    count = codes.shape[0] * codes.shape[1] * rows * columns
    if isinstance(count, int) and count > MOST:
        raise InputError(
            f"expected a padded image of at most {MOST} elements, found {(*codes.shape[:2], rows, columns)}"
        )
    if any(padding):
        rows, columns = padding
        zero = 0 if zero_point is None else zero_point
        shifted = F.pad(codes.int() - (zero - storage_offset(qmax)), (columns, columns, rows, rows))
        codes = (shifted + (zero - storage_offset(qmax))).to(codes.dtype)
    windows = codes.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])
    batch, channels, height, width = windows.shape[:4]
    return windows.permute(0, 2, 3, 1, 4, 5).reshape(batch, height, width, channels * kernel[0] * kernel[1])
