"""
The training operators ``cpu_learned_step*``, ``cpu_variation`` and ``cpu_weight_scales``: see
`fxquant.numerics.learned_step`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from fxquant.errors import InputError
from fxquant.kernels.checks import check_optional, check_tensor, misfit
from fxquant.kernels.cpu.schemas import KERNELS
from fxquant.kernels.fake import register_fake

_LARGEST = torch.finfo(torch.float32).max
LONGEST = 1_000_000  # turns of a search
Bound = Tensor | float


def steps_along(x: Tensor, scale: Tensor, zero_point: Tensor | None, qmin: Bound, qmax: Bound) -> int | None:
    """
    Return the axis of `x` along which scales run, -1 for one scale; None where the kernels do not take these operands.
    """
    tensors = [t for t in (scale, zero_point, qmin, qmax) if isinstance(t, Tensor)]
    alike = all(t.dtype is torch.float32 and t.shape == scale.shape for t in tensors)
    both = isinstance(qmin, Tensor) == isinstance(qmax, Tensor)
    if not (alike and both and x.dtype is torch.float32) or (scale.dim() not in (0, x.dim())):
        return None
    axes = [axis for axis, size in enumerate(scale.shape) if size != 1]
    if not axes:
        return -1
    # One scale for each value of a row: torch is as fast.
    last = axes[0] == x.dim() - 1
    return None if len(axes) > 1 or last or scale.shape[axes[0]] != x.shape[axes[0]] else axes[0]


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor | None, qmin: Bound, qmax: Bound, axis: int) -> Tensor:
    """Return what `fake_quantize_learned` returns, without gradients; `axis` comes from `steps_along`."""
    result: Tensor = KERNELS.cpu_learned_step(x, *_range(scale, zero_point, qmin, qmax), axis)
    return result


def fake_quantize_backward(
    gradient: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor | None, qmin: Bound, qmax: Bound, axis: int
) -> tuple[Tensor, Tensor]:
    """Return the gradient of `x`, and those of scale, zero point, qmin and qmax as ``(4, *scale.shape)``."""
    operands = _range(scale, zero_point, qmin, qmax)
    to_x, sums = KERNELS.cpu_learned_step_backward(gradient, x, *operands, axis)
    return to_x, sums.view(4, *scale.shape)


def variation(
    weight: Tensor, scale: Tensor, qmin: Bound, qmax: Bound, published: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the regulariser of a weight whose scales run along axis 0, and its gradients for weight and scale."""
    flat, _, limits, low, high = _range(scale, None, qmin, qmax)
    value, to_weight, to_scale = KERNELS.cpu_variation(weight, flat, limits, low, high, published)
    return value, to_weight, to_scale.view(scale.shape)


def weight_scales(weight: Tensor, widths: Iterable[int], tolerance: float, rounds: int) -> Tensor:
    """Return the first scales ``(W,)`` for the training of a float32 weight, one for each of W `widths` in bits."""
    bits = torch.tensor(tuple(widths), dtype=torch.int64)
    result: Tensor = KERNELS.cpu_weight_scales(weight, bits, tolerance, rounds)
    return result


def _range(
    scale: Tensor, zero_point: Tensor | None, qmin: Bound, qmax: Bound
) -> tuple[Tensor, Tensor | None, Tensor | None, float, float]:
    zero_point = None if zero_point is None else zero_point.reshape(-1)
    if isinstance(qmin, Tensor) and isinstance(qmax, Tensor):
        return scale.reshape(-1), zero_point, torch.stack((qmin.reshape(-1), qmax.reshape(-1))), -math.inf, math.inf
    return scale.reshape(-1), zero_point, None, float(qmin), float(qmax)


@register_fake("fxquant::cpu_learned_step")
def _(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, limits: Tensor | None, low: float, high: float, axis: int
) -> Tensor:
    _check(x, scale, zero_point, limits, low, high, axis)
    return torch.empty_like(x)


@register_fake("fxquant::cpu_learned_step_backward")
def _(
    gradient: Tensor,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    limits: Tensor | None,
    low: float,
    high: float,
    axis: int,
) -> tuple[Tensor, Tensor]:
    _check(x, scale, zero_point, limits, low, high, axis)
    check_tensor("gradient", gradient, torch.float32, x.shape)
    return torch.empty_like(x), scale.new_empty((4, scale.numel()))


@register_fake("fxquant::cpu_weight_scales")
def _(weight: Tensor, widths: Tensor, tolerance: float, rounds: int) -> Tensor:
    check_tensor("weight", weight, torch.float32)
    check_tensor("widths", widths, torch.int64, (None,))
    if weight.numel() == 0 or not (0 <= tolerance <= _LARGEST and 0 <= rounds <= LONGEST):
        raise InputError(
            f"expected a weight, a tolerance and at most {LONGEST} rounds, "
            f"found {tuple(weight.shape)}, {tolerance} and {rounds}"
        )
    return weight.new_empty(widths.shape)


@register_fake("fxquant::cpu_variation")
def _(
    weight: Tensor, scale: Tensor, limits: Tensor | None, low: float, high: float, published: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if weight.numel() == 0 or weight.dim() == 0:
        raise misfit("weight", weight, torch.float32, "with rows that are not empty")
    _check(weight, scale, None, limits, low, high, -1 if scale.numel() == 1 else 0)
    if limits is None and not (-128 <= low <= 0 <= high <= 127 and low == math.floor(low) and high == math.floor(high)):
        raise InputError(f"expected whole bounds from -128 to 0 and from 0 to 127, found {low} and {high}")
    return scale.new_empty(()), torch.empty_like(weight), torch.empty_like(scale)


def _check(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, limits: Tensor | None, low: float, high: float, axis: int
) -> None:
    check_tensor("values", x, torch.float32)
    if not -1 <= axis < x.dim() or not all(abs(b) <= _LARGEST or math.isinf(b) for b in (low, high)):
        raise InputError(f"expected an axis of {tuple(x.shape)} or -1, and bounds, found {axis}, {low} and {high}")
    groups = 1 if axis < 0 else x.shape[axis]
    check_tensor("scale", scale, torch.float32, (groups,))
    if groups == 0:
        raise InputError("expected at least one scale")
    check_optional("zero point", zero_point, torch.float32, (groups,))
    check_optional("limits", limits, torch.float32, (2, groups))
