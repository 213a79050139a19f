"""
Arithmetic of learned step sizes: the rounding and its gradients (LSQ, Esser et al. 2020), and where training starts from.

VVTQ trains one step size for each module and kind of operand, with the gradient scales below (Huang et al. 2023).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fxquant.kernels import cpu, on_cpu_kernels

MIN_SCALE = 1e-4
MIN_BITS, MAX_BITS = 2, 8
WIDTHS = range(MIN_BITS, MAX_BITS + 1)
TOLERANCE = 1e-5  # relative change of a weight's scale at which its search ends
MAX_ROUNDS = 10_000  # 8 bits can take more than a thousand


def fake_quantize_learned(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, qmin: Tensor | float, qmax: Tensor | float
) -> Tensor:
    """
    Return ``(round(clamp(x / scale + zero_point, qmin, qmax)) - zero_point) * scale``, float32, with gradients for all of them.

    Rounding passes gradients as it is, and a value on a bound passes half of them. scale, zero_point, qmin and qmax broadcast
    along `x`, which is of any shape. With ``u`` the quotient, the gradient of the scale is ``round(u) - u`` within the range
    and the bound outside (LSQ, equation 3).
    """
    result: Tensor = _FakeQuantize.apply(x, scale, zero_point, qmin, qmax)
    return result


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor | None, qmin: Tensor | float, qmax: Tensor | float
    ) -> Tensor:
        x = x.float()
        bounds = [b if isinstance(b, Tensor) else None for b in (qmin, qmax)]
        ctx.save_for_backward(x, scale, zero_point, *bounds)
        ctx.range = [None if isinstance(b, Tensor) else b for b in (qmin, qmax)]
        kernels = on_cpu_kernels(x, scale, zero_point, *bounds)
        ctx.axis = cpu.steps_along(x, scale, zero_point, qmin, qmax) if kernels else None
        if ctx.axis is not None:
            return cpu.fake_quantize(x, scale, zero_point, qmin, qmax, ctx.axis)
        codes = _steps(x, scale, zero_point).clamp_(qmin, qmax).round_()  # type: ignore[arg-type]
        if zero_point is not None:
            codes -= zero_point
        return codes.mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, scale, zero_point, *bounds = ctx.saved_tensors
        qmin, qmax = (b if b is not None else r for b, r in zip(bounds, ctx.range, strict=True))
        if ctx.axis is not None and not torch.is_grad_enabled():
            to_x, sums = cpu.fake_quantize_backward(gradient, x, scale, zero_point, qmin, qmax, ctx.axis)
            learned = (scale, zero_point, *bounds)
            return to_x, *(None if value is None else found for value, found in zip(learned, sums, strict=True))
        steps = _steps(x, scale, zero_point)
        below, above = _beyond(steps < qmin, steps <= qmin), _beyond(steps > qmax, steps >= qmax)
        inside = 1 - below - above
        to_x = gradient * inside
        to_scale = to_zero = to_qmin = to_qmax = None
        if ctx.needs_input_grad[1]:
            # d/ds of (round(clamp(u)) - z) s, where u = x / s + z.
            change = steps.clamp(qmin, qmax).round_()
            rest = steps if zero_point is None else steps - zero_point
            change = (change if zero_point is None else change - zero_point) - inside * rest
            to_scale = (gradient * change).sum_to_size(scale.shape)
        if zero_point is not None and ctx.needs_input_grad[2]:
            to_zero = ((to_x - gradient) * scale).sum_to_size(zero_point.shape)
        if bounds[0] is not None:
            to_qmin = (gradient * below * scale).sum_to_size(bounds[0].shape)
        if bounds[1] is not None:
            to_qmax = (gradient * above * scale).sum_to_size(bounds[1].shape)
        return to_x, to_scale, to_zero, to_qmin, to_qmax


def _steps(x: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    steps = x / scale
    return steps if zero_point is None else steps.add_(zero_point)


def _beyond(strictly: Tensor, at_most: Tensor) -> Tensor:
    """Return 1 beyond a bound, 0.5 on it and 0 within."""
    return (strictly.float() + at_most.float()).mul_(0.5)


def scale_gradient(x: Tensor, factor: Tensor | float) -> Tensor:
    """Return `x`, bit for bit, whose gradient is multiplied by `factor`."""
    result: Tensor = _ScaleGradient.apply(x, factor)
    return result


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor | float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def clamp_through(x: Tensor, minimum: float, maximum: float | None = None) -> Tensor:
    """Return `x` within bounds, with the gradient of `x`."""
    return pass_through(x, x.detach().clamp(minimum, maximum))


def round_through(x: Tensor) -> Tensor:
    """Return `x` rounded half to even, with the gradient of `x`."""
    return pass_through(x, x.detach().round())


def pass_through(x: Tensor, value: Tensor) -> Tensor:
    """Return `value`, bit for bit, with the gradient of `x`, which is of its shape."""
    result: Tensor = _Through.apply(x, value)
    return result


class _Through(torch.autograd.Function):
    """The second of two values, with the gradient of the first; their difference would lose digits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def learned_range(bits: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Return ``(qmin, qmax)`` of `bits`, ``(G,)``, rounded to whole ones: ``(G,)`` float32 each, with gradients."""
    bits = round_through(bits)
    if signed:
        half = 2 ** (bits - 1)
        return -half, half - 1
    levels = 2**bits
    return torch.zeros_like(levels), levels - 1


def initial_weight_scale(weight: Tensor, bits: int) -> Tensor:
    """
    Return the scale, 0-dim float32, from which a weight of signed `bits` is trained.

    From ``max|w| / qmax`` on, codes ``q = round(clamp(w / s))`` and ``s = <w, q> / <q, q>`` take turns until the scale changes
    by less than 1e-5 of itself. With torch's operators the weights are sorted first, and with the sums of their prefixes each
    turn costs a search for 2^bits bounds, and not a pass over the weight.
    """
    return initial_weight_scales(weight, (bits,))[0]


def initial_weight_scales(weight: Tensor, widths: tuple[int, ...] | range = WIDTHS) -> Tensor:
    """Return what `initial_weight_scale` does for several widths, ``(len(widths),)``."""
    weight = weight.detach().flatten().float()
    if on_cpu_kernels(weight):
        return cpu.weight_scales(weight, widths, TOLERANCE, MAX_ROUNDS)
    ordered = weight.sort().values
    sums = torch.cat((ordered.new_zeros(1, dtype=torch.float64), ordered.cumsum(0, dtype=torch.float64)))
    return torch.stack([_fit(ordered, sums, bits) for bits in widths])


def _fit(ordered: Tensor, sums: Tensor, bits: int) -> Tensor:
    codes = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype=torch.float64, device=ordered.device)
    scale: Tensor = ordered.abs().max() / (2 ** (bits - 1) - 1)
    for _ in range(MAX_ROUNDS if float(scale) > 0 else 0):
        cuts = torch.searchsorted(ordered, _least_values(codes, scale))
        ends = torch.cat((cuts.new_zeros(1), cuts, cuts.new_tensor([len(ordered)])))
        counts, totals = ends.diff(), sums[ends].diff()
        new = ((codes * totals).sum() / (codes.square() * counts).sum().clamp(min=1)).float()
        settled = bool((new - scale).abs() < TOLERANCE * scale)
        scale = new
        if settled:
            break
    return scale


def _least_values(codes: Tensor, scale: Tensor) -> Tensor:
    """Return the least float32 values that are rounded to each code but the first: the quotient is rounded as well."""
    halves = ((codes[1:] - 0.5) * scale).float()
    around = [halves]
    for direction in (-math.inf, math.inf):
        value = halves
        for _ in range(2):
            value = torch.nextafter(value, torch.full_like(value, direction))
            around.append(value)
    near = torch.stack(around).sort(dim=0).values
    reaches = (near / scale).round() >= codes[1:]
    least: Tensor = near.gather(0, reaches.int().argmax(0, keepdim=True))[0]
    return least


def initial_activation_scale(mean: Tensor, bits: int) -> Tensor:
    """Return ``2 mean|x| / sqrt(2^(bits-1) - 1)``, from which an activation is trained (LSQ, section 2.1)."""
    return 2 * mean / math.sqrt(2 ** (bits - 1) - 1)
