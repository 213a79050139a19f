"""Pooling and resizing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from fxquant.dialect.spellings import pair
from fxquant.onnx_export.graph_writer import Writer
from fxquant.onnx_export.node_values import Name


def _max_pool2d(
    w: Writer,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Name:
    top, left = pair(padding)
    window = {
        "kernel_shape": pair(kernel_size),
        "strides": pair(stride or kernel_size),
        "pads": (top, left, top, left),
    }
    return w.add("MaxPool", x, **window, dilations=pair(dilation), ceil_mode=int(ceil_mode))


def _avg_pool2d(
    w: Writer,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Name:
    if divisor_override is not None:
        w.refuse("an average with a divisor of its own")
    top, left = pair(padding)
    window = {
        "kernel_shape": pair(kernel_size),
        "strides": pair(stride or kernel_size),
        "pads": (top, left, top, left),
    }
    flags = {"ceil_mode": int(ceil_mode), "count_include_pad": int(count_include_pad)}
    return w.add("AveragePool", x, **window, **flags)


def _adaptive_avg_pool2d(w: Writer, x: Any, output_size: Any) -> Name:
    wanted, found = pair(output_size), w.shape(x)[-2:]
    if wanted == (1, 1):
        return w.add("GlobalAveragePool", x)
    if any(size is None or size % n for size, n in zip(found, wanted, strict=True)):
        w.refuse(f"an average of {found} to {wanted}, which is not made of equal windows")
    window = [int(size) // n for size, n in zip(found, wanted, strict=True)]  # type: ignore[arg-type]
    return w.add("AveragePool", x, kernel_shape=window, strides=window)


def _interpolate(
    w: Writer,
    x: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Name:
    if size is None or mode not in ("nearest", "bilinear") or antialias:
        w.refuse(f"interpolation by a factor, smoothed, or of mode {mode!r}")
    batch_and_channels = w.add("Shape", x, start=0, end=2)
    sizes = w.add("Concat", batch_and_channels, w.integers(*pair(size)), axis=0)
    position = "align_corners" if align_corners else "asymmetric" if mode == "nearest" else "half_pixel"
    how = {"mode": "nearest" if mode == "nearest" else "linear", "coordinate_transformation_mode": position}
    rounding = {"nearest_mode": "floor"} if mode == "nearest" else {}
    return w.add("Resize", x, None, None, sizes, **how, **rounding)


TABLE: dict[Any, Callable[..., Any]] = {
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.avg_pool2d: _avg_pool2d,
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.interpolate: _interpolate,
}
