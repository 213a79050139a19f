"""Operands as they will be after `convert`, with gradients: what observers hold, or what is being trained."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from fxquant.numerics.arithmetic import along
from fxquant.numerics.codes import Codes
from fxquant.numerics.granularity import PerChannel, PerHead, PerTensor, RowGroups
from fxquant.numerics.learned_step import fake_quantize_learned, pass_through
from fxquant.observers.base import Observer


@dataclass(eq=False)
class StraightThrough:
    """
    Quantise operands by their observers.

    weights: ``(O, ...)``, rounded in place of what the observer of a weight holds. log_scales: 0-dim or ``(G,)``, the natural
    logarithm of the scale of an activation. shifts: ``(O,)``, added to the bias of the products that read a weight. Observers
    that are not among the keys give what they hold.
    """

    weights: dict[Observer, Tensor] = field(default_factory=dict)
    log_scales: dict[Observer, Tensor] = field(default_factory=dict)
    shifts: dict[Observer, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._held: dict[Observer, Any] = {}  # scales, which some observers take long to find

    def quantized(self, observer: Observer, x: Tensor) -> Tensor:
        """Return an operand `x` of any shape as its codes have it, float32, with the gradient of `x` where it is in range."""
        if observer not in self._held:
            self._held[observer] = observer.calculate_qparams()
        params = self._held[observer]
        x = self.weights[observer] if observer in self.weights else observer.quantized_from(x)
        if not is_uniform(observer):
            return pass_through(x, observer.fake_quantize(x.detach(), params))
        if observer in self.log_scales:
            params = replace(params, scale=self.log_scales[observer].exp())
        params, spec = observer.per_row(params, x), observer.spec
        scale, zero_point = along(params.scale, x.dim(), params.axis), params.zero_point
        if zero_point is not None:
            zero_point = along(zero_point.float(), x.dim(), params.axis)
        return fake_quantize_learned(x, scale, zero_point, float(spec.qmin), float(spec.qmax))

    def shift(self, observer: Observer) -> Tensor | None:
        """Return what is added to the bias of a product that reads this weight, ``(O,)``, None for nothing."""
        if observer in self.shifts:
            return self.shifts[observer]
        return observer.bias_shift if observer.bias_shift.numel() else None


def is_uniform(observer: Observer) -> bool:
    """Say whether an observer stands for codes with even steps, whose scale is a constant of the model."""
    even = (
        isinstance(observer.spec, Codes)
        and observer.spec.even
        and type(observer).fake_quantize is Observer.fake_quantize
    )
    return even and isinstance(observer.granularity, PerTensor | PerChannel | PerHead | RowGroups)


def has_trainable_scale(observer: Observer) -> bool:
    """
    Say whether the scale of an activation can be trained.

    Not those of channels, which layer norms may have to compute with shifts alone.
    """
    return is_uniform(observer) and isinstance(observer.granularity, PerTensor | PerHead)
