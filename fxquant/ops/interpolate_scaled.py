"""Interpolation by factors that are computed from the size of the image, for positions of any number of patches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.errors import InputError
from fxquant.kernels.checks import MOST, check_tensor

MODES = ("nearest", "nearest-exact", "area", "bilinear", "bicubic")
SMOOTHED = ("bilinear", "bicubic")


def interpolate_scaled(x: Tensor, height: float, width: float, mode: str, antialias: bool = False) -> Tensor:
    """
    Return ``(B, C, H, W)`` interpolated to ``(B, C, floor(H * height), floor(W * width))``; `x` where that is its size.

    As `torch.nn.functional.interpolate` with ``scale_factor=(height, width)``, which computes positions by the factors given
    and not by the sizes. Models that add an offset to the factors, against rounding, do not interpolate at their own size.
    """
    result: Tensor = torch.ops.fxquant.interpolate_scaled(x, height, width, mode, antialias)
    return result


@torch.library.custom_op(
    "fxquant::interpolate_scaled",
    mutates_args=(),
    schema="(Tensor x, Scalar height, Scalar width, str mode, bool antialias) -> Tensor",
)
def _interpolate(x: Tensor, height: float, width: float, mode: str, antialias: bool) -> Tensor:
    if _sizes(x, height, width, mode, antialias) == tuple(x.shape[2:]):
        return x.clone()
    return F.interpolate(x, scale_factor=(float(height), float(width)), mode=mode, antialias=antialias)


@_interpolate.register_fake
def _(x: Tensor, height: float, width: float, mode: str, antialias: bool) -> Tensor:
    return x.new_empty(*x.shape[:2], *_sizes(x, height, width, mode, antialias))


def _sizes(x: Tensor, height: float, width: float, mode: str, antialias: bool) -> tuple[int, int]:
    """Return the size of the result. What is symbolic is not compared, as that would bound it."""
    check_tensor("image", x, None, (None, None, None, None))
    if mode not in MODES or (antialias and mode not in SMOOTHED):
        raise InputError(
            f"expected a mode of {MODES}, smoothed one of {SMOOTHED}, found {mode!r} and antialias={antialias}"
        )
    if any(isinstance(n, int | float) and not 0 < n <= MOST for n in (*x.shape, height, width)):
        raise InputError(f"expected an image and positive factors, found {tuple(x.shape)}, {height} and {width}")
    sizes = (math.floor(x.shape[2] * height), math.floor(x.shape[3] * width))
    count = x.shape[0] * x.shape[1] * sizes[0] * sizes[1]
    if isinstance(count, int) and not 0 < count <= MOST:
        raise InputError(f"expected a result of 1 to {MOST} elements, found {(*x.shape[:2], *sizes)}")
    return sizes
