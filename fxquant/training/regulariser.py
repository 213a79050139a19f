"""The variation-aware regulariser: it draws weights to their codes, and the weights of one code to each other (VVTQ)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.graph.trained import weight_quantizers
from fxquant.kernels import cpu, on_cpu_kernels
from fxquant.numerics.learned_step import scale_gradient
from fxquant.observers.base import Observer

START = 0.25  # share of the training before which it has no weight


def regulariser_weight(epoch: float, epochs: float, final: float = 0.01) -> float:
    """
    Return the weight of the regulariser at `epoch` of `epochs`.

    It is 0 for the first quarter of the training. It then rises along half a cosine to `final`.
    """
    done = (epoch / epochs - START) / (1 - START)
    return 0.0 if done < 0 else final * (1 - math.cos(math.pi * done)) / 2


def variation_regulariser(prepared: nn.Module, published: bool = False) -> Tensor:
    """
    Return the regulariser, summed over all weights of a graph of `fxquant.prepare_qat`: 0-dim, with gradients.

    Let ``c`` be the clipped weight and ``q`` its rounded value. Each weight adds the mean of ``(q - c)^2``. For each code
    that more than one element has, it adds the unbiased variance of their ``c`` (VVTQ, equation 8). Binary weights add
    nothing.

    published: as the authors' code does, leave out the elements whose ``q / scale`` is no whole number in float32.
    """
    total: Tensor | None = None
    for module, weight in weight_quantizers(prepared):
        rows = module.rows_of(weight)
        scale = module.scale_of(rows)
        qmin, qmax = (module.placed(bound, rows) for bound in module.range_of_codes())
        with torch.no_grad():
            factor = module.gradient_factor(rows, scale, qmax)
        if published and weight.dim() == 4:  # convolutions have the factor of LSQ here, and here alone
            factor = (weight.numel() * qmax) ** -0.5
        value: Tensor = _Variation.apply(rows, scale_gradient(scale, factor), qmin, qmax, published)
        total = value if total is None else total + value
    observers = (m for m in prepared.modules() if isinstance(m, Observer) and m.trained)
    if total is None and any(observer.initial_bits == 1 for observer in observers):
        return torch.zeros((), device=next(prepared.parameters()).device)
    if total is None:
        raise TypeError("this graph has no weight with a learned step: make it with fxquant.prepare_qat")
    return total


class _Variation(torch.autograd.Function):
    """Both sums over all codes at once. The forward pass computes their gradients too."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, scale: Tensor, qmin: Tensor | float, qmax: Tensor | float, published: bool
    ) -> Tensor:
        bounds = [b for b in (qmin, qmax) if isinstance(b, Tensor)]
        if on_cpu_kernels(weight, scale, *bounds) and cpu.steps_along(weight, scale, None, qmin, qmax) in (-1, 0):
            value, *found = cpu.variation(weight, scale, qmin, qmax, published)
            ctx.save_for_backward(*found)
            return value
        steps = weight / scale
        clipped = steps.clamp(qmin, qmax)  # type: ignore[arg-type]
        codes = clipped.round()
        distance = (clipped - codes) * scale
        groups = scale.numel()
        index = (codes + 128).long() + 256 * torch.arange(groups, device=weight.device).view_as(scale)
        index = index.flatten()
        whole = (codes * scale / scale == codes) if published else None
        counted = distance if whole is None else distance * whole
        shape = (groups * 256,)
        ones = torch.ones_like(distance) if whole is None else whole.float()
        count, first, second = (
            weight.new_zeros(shape).index_add_(0, index, values.flatten())
            for values in (ones, counted, counted.square())
        )
        several = count > 1
        spread = (second - first.square() / count.clamp(min=1)) / (count - 1).clamp(min=1)
        size = weight.numel() / groups
        value = distance.square().sum() / size + spread[several].sum()
        mean, share = first / count.clamp(min=1), several / (count - 1).clamp(min=1)
        pull = (distance - mean[index].view_as(distance)) * share[index].view_as(distance)
        slope = 2 * distance / size + 2 * (pull if whole is None else pull * whole)
        inside = 0.5 * ((steps > qmin) & (steps < qmax)).float() + 0.5 * ((steps >= qmin) & (steps <= qmax)).float()
        ctx.save_for_backward(slope * inside, (slope * (clipped - inside * steps)).sum_to_size(scale.shape))
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        to_weight, to_scale = ctx.saved_tensors
        return gradient * to_weight, gradient * to_scale, None, None, None
