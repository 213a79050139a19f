"""What every observer shares: it passes its operand through, checks it, and accumulates statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from fxquant.errors import CalibrationError
from fxquant.numerics.arithmetic import affine_qparams, dequantize, symmetric_scale, token_qparams
from fxquant.numerics.codes import Codes
from fxquant.numerics.granularity import Granularity, PerToken, RowGroups
from fxquant.observers.take_in import take_in

Summary = tuple[Tensor, ...]


class ObservedSpec(Protocol):
    """What every observer reads of the spec that it finds the range for, whatever its codes are."""

    @property
    def dtype(self) -> str:
        """Name of the codes, for people."""

    @property
    def granularity(self) -> Granularity:
        """Over which values a scale is shared."""

    @property
    def qmin(self) -> int:
        """Smallest code."""

    @property
    def qmax(self) -> int:
        """Largest code."""


@dataclass(frozen=True)
class QParams:
    """Scale (float32) and zero point (int32, None when symmetric): 0-dim, or ``(G,)`` along `axis`."""

    scale: Tensor
    zero_point: Tensor | None
    axis: int | None


@dataclass(frozen=True)
class ObserverOptions:
    """Frozen options of one kind of observer; `build` makes the module."""

    trained = False  # whether what it builds is trained with the model
    learns_step = False  # whether a scale is among what is trained

    def check(self, spec: Codes) -> None:
        """Raise `ConfigError` where this kind of observer cannot find the range of a `spec`; most can find any."""

    def build(self, spec: Codes, name: str) -> Observer:
        """Return a fresh observer for an operand quantised by `spec`."""
        raise NotImplementedError


class Observer(nn.Module):
    """
    Accumulate the range of one operand over the calibration batches.

    Calling it returns its input unchanged. `spec` says how the operand will be quantised, `operand` names it in errors.
    Subclasses are given each batch as ``(G, n)``, one row for each scale. They take it in by `summarise` and `absorb`, or by an
    `observe` of their own. They keep statistics in buffers, so that a half-calibrated model can be saved.

    Five more buffers hold what `fxquant.calibration` finds, and are empty until then. `found_scale` and `found_zero_point`,
    ``(G,)``, take the place of those that the statistics give. `noise`, ``(K,)``, is added to each token or patch before it is
    quantised. On the observer of a weight ``(O, ...)``, `found_weight`, of the same shape, is quantised in place of the weight,
    and `bias_shift`, ``(O,)``, is added to the bias of the product.
    """

    batches: Tensor
    found_scale: Tensor
    found_zero_point: Tensor
    noise: Tensor
    bias_shift: Tensor
    found_weight: Tensor
    trained = False  # whether it is trained with the model
    integer_softmax = False  # whether the softmax that gives the operand is computed on the codes of its scores
    reads_last = False  # whether it keeps something of the latest batch that depends on all batches before
    # Whether a search leaves the other operand float, as PTQ4ViT's code does for a softmax split.
    searched_alone = False
    # Whether all candidates are scored, as the loss has no slope along them that leads to the best.
    searched_whole = False
    # Between the candidates that a coarse search scores first; None: those whose multipliers lie apart.
    stride: int | None = None
    # While several ranks run a batch each: what it says, to be absorbed in order, and how many come before it.
    pending: list[Summary] | None = None
    ahead = 0

    def __init__(self, spec: ObservedSpec, operand: str) -> None:
        super().__init__()
        self.spec = spec
        self.operand = operand
        self.frozen = False  # set once a constant (a weight) was observed: there is nothing more to see
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("found_scale", torch.zeros(0))
        self.register_buffer("found_zero_point", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("noise", torch.zeros(0))
        self.register_buffer("bias_shift", torch.zeros(0))
        self.register_buffer("found_weight", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        """Observe `x` of any shape and return it; under `torch.export`, which records values only, just return it."""
        if not self.frozen and not torch.compiler.is_exporting():
            take_in(self, x)
        return x

    def take_in(self, x: Tensor) -> None:
        """Check a batch `x` of any shape and add it to the statistics."""
        values = x.detach()
        if values.numel() == 0:
            raise CalibrationError(f"{self._where()}: expected values, found an empty tensor of shape {tuple(x.shape)}")
        if self.pending is not None:
            self.pending.append(self.summarise(self.rows(values)))
            return
        self.observe(self.rows(values))
        self.batches += 1

    def observe(self, rows: Tensor) -> None:
        """Take in one batch as ``(G, n)``."""
        self.absorb(*self.summarise(rows))

    def summarise(self, rows: Tensor) -> Summary:
        """Return what one batch ``(G, n)`` says, whatever was observed before."""
        raise NotImplementedError

    def absorb(self, *summary: Tensor) -> None:
        """Add what `summarise` returned to the statistics."""
        raise NotImplementedError

    def replay(self, summary: Summary) -> None:
        """Take in one batch of which another rank may have made the `summary`."""
        self.absorb(*(t.to(self.batches.device) for t in summary))
        self.batches += 1

    @property
    def summarises(self) -> bool:
        """Whether `summarise` and `absorb` are all there is to observing; not where a subclass has its own `observe`."""
        return type(self).observe is Observer.observe

    def range(self) -> tuple[Tensor, Tensor]:
        """Return ``(min, max)``, each ``(G,)``."""
        raise NotImplementedError

    def calculate_qparams(self) -> QParams:
        """
        Return the scale and zero point that a search found, else those for the statistics so far.

        Raises `CalibrationError` when nothing was observed.
        """
        if not self.calibrated:
            raise CalibrationError(
                f"node {self.operand!r} was never calibrated: run fxquant.calibrate(prepared, batches) before convert"
            )
        return self.found_qparams() if self.refined else self.initial_qparams()

    def trained_bits(self) -> Tensor | float | None:
        """Return the mean bit width of what is trained, with gradients where it is learned; None where nothing is trained."""
        return None

    @property
    def initial_bits(self) -> int:
        """How many bits it takes to count the codes that it was prepared with, 1 where they are signs."""
        return (self.spec.qmax - self.spec.qmin).bit_length()

    @property
    def learns_bits(self) -> bool:
        """Whether the bit width is trained with the model."""
        return False

    def keep_in_range(self) -> None:
        """Bring what a step of the optimiser took beyond its bounds back to them; nothing where nothing is trained."""

    def hold_bits(self) -> None:
        """Let the next step of the optimiser leave the bit width as it is."""

    def settle(self) -> bool:
        """Fix what was found of `spec`, such as a learned bit width, as nothing more will be seen; say whether anything was."""
        return False

    def settled_weight(self, weight: Tensor) -> Tensor | None:
        """
        Return the trained `weight`, ``(O, ...)``, with what its codes cannot hold taken out of it.

        None where the codes hold all of it. It is asked before `settle`.
        """
        return None

    def fixed_offset(self) -> float | None:
        """Return a real offset that was learned, which has no integer zero point; None where there is none."""
        return None

    def operator_arguments(self) -> Mapping[str, Tensor | int | float]:
        """
        Return the arguments, by name, of the operators that `convert` writes for this kind of spec.

        The operators stand in `fxquant.config.kinds`. Each is given those of the arguments that it has a parameter for. Raises
        `CalibrationError` when nothing was observed.
        """
        return {"scale": self.calculate_qparams().scale, "qmin": self.spec.qmin, "qmax": self.spec.qmax}

    def initial_qparams(self) -> QParams:
        """Return the scale and zero point for the statistics so far."""
        return self.qparams_for(*self.range())

    @property
    def refined(self) -> bool:
        """Whether a search has found better than the statistics."""
        return self.found_scale.numel() > 0

    def refine(self, qparams: QParams) -> None:
        """Let `calculate_qparams` return these from now on."""
        self.found_scale = qparams.scale.reshape(-1).clone()
        if qparams.zero_point is not None:
            self.found_zero_point = qparams.zero_point.reshape(-1).clone()

    def found_qparams(self) -> QParams:
        """Return what `refine` was given."""
        scale, zero_point = self.found_scale, self.found_zero_point if self.found_zero_point.numel() else None
        if self.axis is None:
            return QParams(scale.reshape(()), None if zero_point is None else zero_point.reshape(()), None)
        return QParams(scale, zero_point, self.axis)

    def candidates(self, multipliers: Tensor) -> int:
        """Return how many candidates a search has, where it may multiply scales by each of `multipliers`, ``(steps,)``."""
        return int(multipliers.numel())

    def candidate(self, initial: QParams, multipliers: Tensor, index: Tensor) -> QParams:
        """
        Return the candidate with number `index`, made from the `initial` quantisation.

        index: 0-dim, one number for the whole tensor; or ``(G,)``, a number for each of its G scales.
        """
        return QParams(initial.scale * multipliers[index], initial.zero_point, initial.axis)

    def step(self, qparams: QParams) -> Tensor:
        """Return the distance between neighbouring codes, 0-dim or ``(G,)``: the unit in which a noisy bias is searched."""
        return qparams.scale

    def fake_quantize(self, x: Tensor, qparams: QParams) -> Tensor:
        """Return `x` as it will be after `convert`, float32."""
        spec = cast(Codes, self.spec)
        if self.at_run_time:
            scale, zero_point = (t[..., None] for t in token_qparams(x, spec.symmetric, spec.qmin, spec.qmax))
            return dequantize(spec.quantize(x, scale, zero_point), scale, zero_point)
        params = self.per_row(qparams, x)
        codes = spec.quantize(x, params.scale, params.zero_point, params.axis)
        return dequantize(codes, params.scale, params.zero_point, params.axis)

    def quantized_from(self, x: Tensor) -> Tensor:
        """Return what is rounded in place of an operand `x`: what calibration found for a weight, else `x` itself."""
        return self.found_weight if self.found_weight.numel() else x

    def per_row(self, qparams: QParams, x: Tensor) -> QParams:
        """Repeat the scales of row groups, ``(G,)``, for each row of a weight `x`, ``(O,)``; return others as they are."""
        if not isinstance(self.spec.granularity, RowGroups):
            return qparams
        rows, zero_point = x.shape[0] // qparams.scale.shape[0], qparams.zero_point
        repeated = None if zero_point is None else zero_point.repeat_interleave(rows)
        return QParams(qparams.scale.repeat_interleave(rows), repeated, qparams.axis)

    @property
    def calibrated(self) -> bool:
        """Whether at least one batch was observed."""
        return int(self.batches) > 0

    def qparams_for(self, minimum: Tensor, maximum: Tensor) -> QParams:
        """Return scale and zero point of a ``(G,)`` range; for observers whose spec has even steps, as `Codes` have."""
        spec = cast(Codes, self.spec)
        if spec.symmetric:
            scale, zero_point = symmetric_scale(minimum, maximum, spec.qmin, spec.qmax), None
        else:
            scale, zero_point = affine_qparams(minimum, maximum, spec.qmin, spec.qmax)
        if self.axis is None:
            return QParams(scale.reshape(()), None if zero_point is None else zero_point.reshape(()), None)
        return QParams(scale, zero_point, self.axis)

    @property
    def granularity(self) -> Granularity:
        """Over which values a scale is shared: what `spec` says, unless the statistics decide."""
        return self.spec.granularity

    @property
    def at_run_time(self) -> bool:
        """Whether its scales are computed from the values at run time, so that there is nothing to find."""
        return isinstance(self.granularity, PerToken)

    @property
    def axis(self) -> int | None:
        """Axis that the scales run along, None for one scale."""
        return self.spec.granularity.axis

    def rows(self, x: Tensor) -> Tensor:
        """View `x` as ``(G, n)``: one row for each scale."""
        if self.axis is None:
            return x.reshape(1, -1)
        if not -x.dim() <= self.axis < x.dim():
            raise CalibrationError(
                f"{self._where()}: {self.spec.granularity} needs axis {self.axis}, found shape {tuple(x.shape)}"
            )
        rows = x.movedim(self.axis, 0).reshape(x.shape[self.axis], -1)
        if isinstance(self.spec.granularity, RowGroups):
            groups = self.spec.granularity.groups
            if rows.shape[0] % groups:
                raise CalibrationError(f"{self._where()}: {rows.shape[0]} rows do not split into {groups} equal groups")
            rows = rows.reshape(groups, -1)
        return rows

    def checked_aminmax(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the float32 ``(G,)`` minimum and maximum of a batch; refuse NaN and infinity."""
        # Two reductions, not one aminmax: along a dimension that is not vectorised on a CPU and takes 7 times as long.
        minimum, maximum = rows.amin(dim=1).float(), rows.amax(dim=1).float()
        if not bool((torch.isfinite(minimum) & torch.isfinite(maximum)).all()):
            kind = "NaN" if bool(torch.isnan(rows).any()) else "infinite"
            raise CalibrationError(
                f"{self._where()}: expected finite values, found {kind} ones; check the images, their normalisation "
                "and the model's dtype"
            )
        return minimum, maximum

    def extra_repr(self) -> str:
        """Show the operand and spec when the module is printed."""
        return f"{self.operand}, {self.spec}"

    def _where(self) -> str:
        return f"node {self.operand!r}, calibration batch {int(self.batches) + self.ahead}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Observer:
        # `.to(device)` moves statistics; casting the model, as in `.bfloat16()`, must not round them.
        before = [(m, name, buffer) for m in self.modules() for name, buffer in m._buffers.items()]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for module, name, buffer in before:
            moved = module._buffers[name]
            if buffer is not None and moved is not None and moved.dtype != buffer.dtype:
                module._buffers[name] = buffer.to(moved.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Statistics take their shape from the data: make room for what the checkpoint holds before it is copied in.
        # Always, as those observed under `torch.inference_mode` could not be written to.
        for name, buffer in list(self._buffers.items()):
            saved = state_dict.get(prefix + name)
            if buffer is not None and isinstance(saved, Tensor):
                self._buffers[name] = torch.empty_like(saved, device=buffer.device)
        super()._load_from_state_dict(state_dict, prefix, *args)
