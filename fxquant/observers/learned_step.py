"""Quantisers whose step size is trained with the model (LSQ), and where asked for an offset (LSQ+) and the bit width too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from fxquant.distributed import world_size
from fxquant.errors import ConfigError
from fxquant.numerics.arithmetic import along, code_range
from fxquant.numerics.codes import Codes
from fxquant.numerics.granularity import PerTensor, RowGroups
from fxquant.numerics.learned_step import (
    MAX_BITS,
    MIN_BITS,
    MIN_SCALE,
    WIDTHS,
    clamp_through,
    fake_quantize_learned,
    initial_activation_scale,
    initial_weight_scales,
    learned_range,
    round_through,
    scale_gradient,
)
from fxquant.observers.base import Observer, ObserverOptions, QParams
from fxquant.observers.full_precision import full_precision
from fxquant.observers.take_in import take_in


class GradientScale(Enum):
    """By what the gradient of a step size is multiplied, where n values share the step and `qmax` is the largest code."""

    VARIATION = "variation"  # weights 1 / sqrt(sum|w| qmax), activations 1 / (sqrt(n) qmax) (VVTQ)
    LSQ = "lsq"  # 1 / sqrt(n qmax) (LSQ, section 2.2)


@dataclass(frozen=True)
class LearnedStep(ObserverOptions):
    """
    The scale of an activation is trained; the first batch it sees sets it to ``2 mean|x| / sqrt(2^(bits-1) - 1)``.

    With an affine spec, ``symmetric=False``, an offset is trained too. It is rounded to whole steps, which gives an integer
    zero point. real_offset: do not round it; then only what linear layers read can become codes. learned_bits: train the bit
    width, from that of the spec on; there is one scale for each of 2 to 8 bits. train: False keeps the scale where it starts.
    """

    gradient_scale: GradientScale = GradientScale.VARIATION
    learned_bits: bool = False
    real_offset: bool = False
    train: bool = True
    trained = True
    learns_step = True

    def __post_init__(self) -> None:
        if not isinstance(self.gradient_scale, GradientScale):
            raise ConfigError(f"gradient_scale must be a GradientScale, got {self.gradient_scale!r}")
        for name in ("learned_bits", "real_offset", "train"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{type(self).__name__}.{name} must be True or False, got {getattr(self, name)!r}")

    def check(self, spec: Codes) -> None:
        """Raise `ConfigError` where a step cannot be learned for a `spec`."""
        if spec.narrow:
            raise ConfigError("a learned step uses all codes: use narrow=False")
        if self.learned_bits and not isinstance(spec.granularity, PerTensor) and spec.granularity.axis != 0:
            raise ConfigError(f"learned bits need one scale, or groups of rows of a weight, got {spec.granularity}")

    def build(self, spec: Codes, name: str) -> LearnedStepQuantizer:
        """Return a `LearnedStepQuantizer`."""
        return LearnedStepQuantizer(spec, name, self)


@dataclass(frozen=True)
class LearnedWeightStep(LearnedStep):
    """The scale of a weight is trained; it starts where alternating least squares end (`initial_weight_scale`)."""

    def check(self, spec: Codes) -> None:
        """Raise `ConfigError` for codes that no weight should have."""
        super().check(spec)
        if not spec.symmetric or not spec.signed:
            raise ConfigError("a learned step of a weight needs signed, symmetric codes")
        if spec.granularity.axis not in (None, 0):
            raise ConfigError(f"a learned step of a weight runs along its rows, got {spec.granularity}")

    def build(self, spec: Codes, name: str) -> LearnedWeightQuantizer:
        """Return a `LearnedWeightQuantizer`."""
        return LearnedWeightQuantizer(spec, name, self)


class LearnedStepQuantizer(Observer):
    """
    Quantise and dequantise an operand with a learned scale.

    scale: ``(G,)``, or where bit widths are learned ``(7, G)``, a row for each of 2 to 8 bits. offset: of the same shape, None
    for a symmetric spec. bits: the learned widths, ``(G,)``, or None. The first batch sets all of them before it is quantised.
    """

    spec: Codes
    trained = True

    def __init__(self, spec: Codes, operand: str, options: LearnedStep) -> None:
        super().__init__(spec, operand)
        self.options = options
        empty = torch.zeros((len(WIDTHS), 0) if options.learned_bits else 0)
        self.scale = nn.Parameter(empty, requires_grad=options.train)
        self.offset = None if spec.symmetric else nn.Parameter(empty.clone(), requires_grad=options.train)
        self.bits = nn.Parameter(torch.zeros(0)) if options.learned_bits else None

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` of any shape, rounded to its codes, float32."""
        if not self.frozen:
            take_in(self, x)
        # Rounding has no meaning in the few digits of a float that autocast may have made of it.
        with full_precision(x):
            return self._quantize(x.float())

    def _quantize(self, x: Tensor) -> Tensor:
        rows = self.rows_of(x)
        scale = self.scale_of(rows)
        qmin, qmax = (self.placed(bound, rows) for bound in self.range_of_codes())
        if scale.requires_grad and not torch.compiler.is_exporting():  # which makes a program that is not trained
            with torch.no_grad():
                factor = self.gradient_factor(rows, scale, qmax)
            scale = scale_gradient(scale, factor)
        if self.offset is None:
            return fake_quantize_learned(rows, scale, None, qmin, qmax).view_as(x)
        offset = self.placed(self._chosen(self.offset), rows)
        if self.options.real_offset:
            return fake_quantize_learned(rows - offset, scale, None, qmin, qmax).add(offset).view_as(x)
        return fake_quantize_learned(rows, scale, -round_through(offset / scale), qmin, qmax).view_as(x)

    def range_of_codes(self) -> tuple[Tensor, Tensor] | tuple[float, float]:
        """Return the smallest and largest code, as tensors ``(G,)`` where the bit width is learned."""
        if self.bits is None:
            qmin, qmax = code_range(self.spec.bits, self.spec.signed)
            return float(qmin), float(qmax)
        return learned_range(clamp_through(self.bits, MIN_BITS, MAX_BITS), self.spec.signed)

    def rows_of(self, x: Tensor) -> Tensor:
        """View `x` so that its scales run along one axis: row groups become axis 0."""
        return x.reshape(self.spec.granularity.groups, -1) if isinstance(self.spec.granularity, RowGroups) else x

    def scale_of(self, rows: Tensor) -> Tensor:
        """Return the present scale so that it broadcasts along `rows`, what `rows_of` gave."""
        return self.placed(clamp_through(self._chosen(self.scale), MIN_SCALE), rows)  # type: ignore[return-value]

    def placed(self, values: Tensor | float, rows: Tensor) -> Tensor | float:
        """Return ``(G,)`` values so that they broadcast along `rows`; a number stays one."""
        if not isinstance(values, Tensor):
            return values
        return values.reshape(()) if self.axis is None else along(values, rows.dim(), self.axis)

    def gradient_factor(self, rows: Tensor, scale: Tensor, qmax: Tensor | float) -> Tensor | float:
        """Return what the gradient of the scale is multiplied by; the batch counts as one over all processes."""
        count = rows.numel() / scale.numel() * world_size()
        root: float = count**0.5
        if self.options.gradient_scale is GradientScale.LSQ:
            return 1 / (root * qmax**0.5)
        return 1 / (root * qmax)

    def observe(self, rows: Tensor) -> None:
        """Let the first batch ``(G, n)`` set scales, offsets and widths."""
        self.checked_aminmax(rows)
        widths = WIDTHS if self.options.learned_bits else (self.spec.bits,)
        scales = self.initial_scales(rows.float(), widths).clamp(min=MIN_SCALE)  # (widths, G)
        # The parameters stay the objects that an optimiser may hold by now.
        self.scale.data = scales if self.options.learned_bits else scales[0]
        if self.offset is not None:
            self.offset.data = torch.zeros_like(self.scale.data)
        if self.bits is not None:
            self.bits.data = torch.full_like(scales[0], float(self.spec.bits))
        self.frozen = True

    def initial_scales(self, rows: Tensor, widths: tuple[int, ...] | range) -> Tensor:
        """Return the scales ``(widths, G)`` from which training starts: the same for all widths."""
        scale = initial_activation_scale(rows.abs().mean(dim=1), self.spec.bits)
        return scale.expand(len(widths), -1).clone()

    def initial_qparams(self) -> QParams:
        """Return the scale and integer zero point that were learned."""
        scale, axis = self._chosen(self.scale).detach().clamp(min=MIN_SCALE), self.axis
        zero_point = None
        if self.offset is not None and not self.options.real_offset:
            zero_point = -torch.round(self._chosen(self.offset).detach() / scale).to(torch.int32)
        if axis is None:
            return QParams(scale.reshape(()), None if zero_point is None else zero_point.reshape(()), None)
        return QParams(scale, zero_point, axis)

    def range(self) -> tuple[Tensor, Tensor]:
        """Return the smallest and largest value that has a code, ``(G,)`` each."""
        params = self.initial_qparams()
        qmin, qmax = (torch.as_tensor(b) for b in self.range_of_codes())
        zero = 0 if params.zero_point is None else params.zero_point
        return ((qmin - zero) * params.scale).reshape(-1), ((qmax - zero) * params.scale).reshape(-1)

    @torch.no_grad()
    def keep_in_range(self) -> None:
        """Bring a scale or width that a step of the optimiser took beyond its bounds back to them."""
        self.scale.clamp_(min=MIN_SCALE)
        if self.bits is not None:
            self.bits.clamp_(MIN_BITS, MAX_BITS)

    def hold_bits(self) -> None:
        """Forget the gradient of the bit widths."""
        if self.bits is not None:
            self.bits.grad = None

    def fixed_offset(self) -> float | None:
        """Return the real offset, which has no integer zero point; None where there is none."""
        if self.offset is None or not self.options.real_offset:
            return None
        return float(self._chosen(self.offset.detach()))

    def widths(self) -> tuple[int, ...]:
        """Return the bit width of each of the G scales."""
        if self.bits is None:
            return (self.spec.bits,) * max(self._chosen(self.scale).numel(), 1)
        return tuple(int(b) for b in self.bits.detach().clamp(MIN_BITS, MAX_BITS).round().tolist())

    def trained_bits(self) -> Tensor | float:
        """Return the bit width, of learned ones the mean over the G scales: 0-dim, with gradients."""
        if self.bits is None:
            return float(self.spec.bits)
        return round_through(clamp_through(self.bits, MIN_BITS, MAX_BITS)).mean()

    @property
    def learns_bits(self) -> bool:
        """Whether the bit width is trained with the model."""
        return self.bits is not None

    def settled_weight(self, weight: Tensor) -> Tensor | None:
        """Return a weight clamped to the codes of each row group's own width, None where all have the same."""
        if len(set(self.widths())) < 2:
            return None
        scales = self.calculate_qparams().scale.reshape(-1)
        groups = weight.detach().reshape(len(scales), -1)
        rows = []
        for row, scale, bits in zip(groups, scales, self.widths(), strict=True):
            qmin, qmax = code_range(bits, signed=True)
            rows.append(row.clamp(float(qmin * scale), float(qmax * scale)))
        return torch.stack(rows).reshape(weight.shape)

    def settle(self) -> bool:
        """Let the learned widths be the spec's: the widest, as the codes of the others fit it."""
        if self.bits is None:
            return False
        scale, offset = self._chosen(self.scale).detach(), self.offset
        bits = max(self.widths())
        self.options = replace(self.options, learned_bits=False)
        settled: dict[str, Any] = {"bits": bits, "observer": self.options}
        self.spec = replace(self.spec, **settled)
        self.scale, self.bits = nn.Parameter(scale, requires_grad=self.options.train), None
        if offset is not None:
            self.offset = nn.Parameter(self._chosen(offset).detach())
        return True

    def _chosen(self, values: Tensor) -> Tensor:
        """Return the row ``(G,)`` of scales or offsets that the present width selects."""
        if values.dim() == 1:
            return values
        if self.bits is None:
            return values[self.spec.bits - MIN_BITS]
        rows = (self.bits.detach().clamp(MIN_BITS, MAX_BITS).round().long() - MIN_BITS)[None]
        return values.gather(0, rows)[0]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, parameter in list(self._parameters.items()):
            saved = state_dict.get(prefix + name)
            if parameter is not None and isinstance(saved, Tensor) and saved.shape != parameter.shape:
                parameter.data = torch.empty_like(saved, device=parameter.device)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.frozen = self.calibrated

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LearnedStepQuantizer:
        # `.to(device)` moves what was learned; casting the model must not round it.
        before = {name: p.data for name, p in self._parameters.items() if p is not None}
        super()._apply(fn, recurse)
        for name, values in before.items():
            moved = self._parameters[name]
            if moved is not None and moved.dtype != torch.float32:
                moved.data = values.to(moved.device)
        return self


class LearnedWeightQuantizer(LearnedStepQuantizer):
    """As `LearnedStepQuantizer`, for weights."""

    def gradient_factor(self, rows: Tensor, scale: Tensor, qmax: Tensor | float) -> Tensor | float:
        """Return what the gradient of each scale is multiplied by."""
        if self.options.gradient_scale is GradientScale.LSQ:
            return 1 / (rows.numel() / scale.numel() * qmax) ** 0.5
        norm = rows.detach().abs()
        norm = norm.sum() if self.axis is None else norm.flatten(1).sum(1).reshape(scale.shape)
        return 1 / (norm * qmax).clamp(min=torch.finfo(torch.float32).tiny).sqrt()

    def initial_scales(self, rows: Tensor, widths: tuple[int, ...] | range) -> Tensor:
        """Return the scales ``(widths, G)`` from which training starts."""
        return torch.stack([initial_weight_scales(row, widths) for row in rows], dim=1)
