"""One side of a matrix product under search: its values, its observers, and the candidates for their scales."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from fxquant.calibration.grid import around, log_spaced
from fxquant.numerics.arithmetic import along
from fxquant.numerics.granularity import PerHead, PerTensor
from fxquant.observers.base import Observer


class Groups(Enum):
    """What shares the number of a candidate."""

    ALL = "all"  # the whole tensor, even if it has several scales
    HEADS = "heads"  # each head of ``(E, H, N, K)``
    ROWS = "rows"  # each block of rows of a weight ``(O, K)``


@dataclass(eq=False)
class Part:
    """
    One tensor under search, and its observer: None where it stays float.

    values: the tensor as the product reads it, ``(O, K)`` of a weight, ``(T, K)`` of an input or ``(E, H, N, K)`` of attention.
    initial: the quantisation that the observer gives before any search. qparams: the best one so far. multipliers: the factors
    that the observer may multiply its initial scales by to get the candidates, ``(steps,)``. clip_evenly: as in `ScaleSearch`.
    """

    observer: Observer | None
    values: Tensor
    initial: Any
    qparams: Any
    multipliers: Tensor
    clip_evenly: bool = False

    @classmethod
    def of(
        cls, observer: Observer | None, values: Tensor, multipliers: tuple[float, ...], clip_evenly: bool = False
    ) -> Part:
        """Start from what the observer found by itself; without one the values stay float."""
        if observer is None:
            return cls(None, values, None, None, torch.zeros(0))
        initial = observer.initial_qparams()
        return cls(observer, values, initial, initial, torch.tensor(multipliers, device=values.device), clip_evenly)

    @property
    def searched(self) -> bool:
        """Whether it has scales to be searched."""
        return self.observer is not None and not self.observer.at_run_time

    @property
    def grouping(self) -> Groups:
        """How the groups lie, each of which is given a candidate of its own."""
        granularity = self.observer.spec.granularity if self.observer is not None else PerTensor()
        if self.observer is None or isinstance(granularity, PerTensor):
            return Groups.ALL
        if isinstance(granularity, PerHead):
            return Groups.HEADS if self.values.dim() == 4 else Groups.ALL
        return Groups.ROWS if self.observer.frozen and granularity.axis == 0 else Groups.ALL

    @property
    def groups(self) -> int:
        """How many scales are searched on their own."""
        return 1 if self.grouping is Groups.ALL else int(self.initial.scale.numel())

    @property
    def steps(self) -> int:
        """How many candidates there are."""
        return 0 if self.observer is None else self.observer.candidates(self.multipliers)

    def candidate(self, index: Tensor) -> Any:
        """Return the quantisation by candidate ``index[g]`` of each group, ``(groups,)``."""
        if self.observer is None:
            raise RuntimeError("what stays float has no candidates")
        own = index[0] if self.grouping is Groups.ALL else index
        return self.observer.candidate(self.initial, self.multipliers, own)

    def quantize(self, qparams: Any, values: Tensor | None = None) -> Tensor:
        """Return the values as they are after quantisation by `qparams`."""
        values = self.values if values is None else values
        return values.float() if self.observer is None else self.observer.fake_quantize(values, qparams)

    def scored(self, index: Tensor) -> Tensor:
        """Return the values by which the candidate ``index[g]`` of each group is scored."""
        candidate = self.candidate(index)
        quantized = self.quantize(candidate)
        if self.observer is None or not self.clip_evenly:
            return quantized
        # Clipping codes at -qmax is the same as clipping values there first, as -qmax is a code.
        params = self.observer.per_row(candidate, self.values)
        bound = along(params.scale, quantized.dim(), params.axis) * self.observer.spec.qmax
        return torch.maximum(quantized, -bound)

    def reduce(self, losses: Tensor) -> Tensor:
        """Return the loss ``(groups,)`` from that of each row, ``(E, H, R)``."""
        if self.grouping is Groups.HEADS:
            return losses.sum((0, 2), dtype=torch.float64)
        if self.grouping is Groups.ROWS:
            return losses.sum((0, 1), dtype=torch.float64).reshape(self.groups, -1).sum(1)
        return losses.sum(dtype=torch.float64).reshape(1)


@dataclass(eq=False)
class Side:
    """
    One side of a product: its parts below each other, as R rows ``(E, H, R, K)``.

    The product is the dot products of the rows of one side with those of the other. transposed: the parts hold ``(..., K, R)``,
    as the right operand of a product of activations does. weight: the parts are weights, ``(R, K)`` when their last axes are
    flattened.
    """

    parts: list[Part]
    transposed: bool = False
    weight: bool = False

    @property
    def searched_alone(self) -> bool:
        """Whether the candidates are compared with the other side left float."""
        observer = self.parts[0].observer
        return observer is not None and observer.searched_alone

    @property
    def groups(self) -> int:
        """Groups of all parts."""
        return sum(p.groups for p in self.parts)

    @property
    def steps(self) -> int:
        """Candidates; all parts have as many."""
        return self.parts[0].steps

    def rows(self) -> Tensor:
        """Return the float values."""
        return self._joined([p.values.float() for p in self.parts])

    def quantized(self) -> Tensor:
        """Return the values quantised as found so far."""
        return self._joined([p.quantize(p.qparams) for p in self.parts])

    def candidate(self, index: Tensor) -> Tensor:
        """Return the values quantised by candidate ``index[g]`` of each group."""
        indices = index.split([p.groups for p in self.parts])
        return self._joined([p.scored(i) for p, i in zip(self.parts, indices, strict=True)])

    def choose(self, index: Tensor) -> None:
        """Keep candidate ``index[g]`` of each group."""
        for part, own in zip(self.parts, index.split([p.groups for p in self.parts]), strict=True):
            part.qparams = part.candidate(own)

    def first(self, before: Tensor | None) -> Iterable[int | Tensor]:
        """
        Return the numbers of the candidates that a coarse search scores first.

        before: the number that each group chose in the round before, ``(groups,)``; None in the first round.
        """
        part = self.parts[0]
        if part.observer is not None and part.observer.searched_whole:
            return range(self.steps)
        if before is None and part.observer is not None and part.observer.stride is not None:
            return range(0, self.steps, part.observer.stride)
        return log_spaced(part.multipliers.tolist()) if before is None else around(before, self.steps)

    def reduce(self, losses: Tensor) -> Tensor:
        """Return the loss of each group, float64, from that of each row, ``(E, H, R)``."""
        if len(self.parts) == 1:
            return self.parts[0].reduce(losses)
        lengths = [p.values.shape[0] for p in self.parts]
        return torch.cat([p.reduce(own) for p, own in zip(self.parts, losses.split(lengths, 2), strict=True)])

    def _joined(self, values: list[Tensor]) -> Tensor:
        if len(values) > 1:
            return torch.cat([v.reshape(v.shape[0], -1) for v in values])[None, None]
        value = values[0]
        if self.weight or value.dim() == 2:
            return value.reshape(value.shape[0], -1)[None, None]
        return value.mT if self.transposed else value
