"""Interpolation by factors that are computed from the size of the image, for positions of any number of patches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


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
    if (int(x.shape[2] * height), int(x.shape[3] * width)) == tuple(x.shape[2:]):
        return x.clone()
    return F.interpolate(x, scale_factor=(float(height), float(width)), mode=mode, antialias=antialias)


@_interpolate.register_fake
def _(x: Tensor, height: float, width: float, mode: str, antialias: bool) -> Tensor:
    return x.new_empty(*x.shape[:2], math.floor(x.shape[2] * height), math.floor(x.shape[3] * width))
