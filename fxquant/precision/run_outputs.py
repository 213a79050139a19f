"""What a model gives for several batches: how far it is from what another gives, and what a metric of the task says of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.distributed import gather_objects, interleave
from fxquant.errors import InputError
from fxquant.graph.inputs import Arguments, Batch, moved
from fxquant.ops.make_output import output_leaves
from fxquant.precision.task_metrics import TaskMetric


@dataclass(frozen=True, eq=False)
class Shown:
    """The inputs of one batch, in the order in which a graph takes them, and the targets next to them, None for none."""

    inputs: tuple[Tensor, ...]
    targets: Any


def read_batches(gm: fx.GraphModule, batches: Iterable[Batch]) -> list[Shown]:
    """
    Return all `batches` as `gm` takes them; in a process group those of all ranks, in the order in which they were dealt.

    Raises `InputError` where there is none, and for one that does not fit the graph.
    """
    arguments, like = Arguments.of(gm), first_float(gm)
    own = [(arguments.tensors(batch), arguments.split(batch)[1]) for batch in batches]
    found = interleave(gather_objects(own))
    if not found:
        raise InputError("expected at least one batch of images to measure on, found none")
    return [Shown(moved(inputs, like.device, like.dtype), targets) for inputs, targets in found]


def first_float(model: nn.Module) -> Tensor:
    """Return a tensor of `model` that has its device and its dtype."""
    return next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), torch.empty(0))


def floats_of(output: Any) -> list[Tensor]:
    """Return the tensors of floating point in what a model returned; raise `InputError` where there are none."""
    found = [t.detach() for t in output_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    if not found:
        raise InputError("expected a model that returns tensors of floating point, found none to compare")
    return found


@dataclass(eq=False)
class Outputs:
    """
    What a model gave, batch by batch, beside what the float model gave.

    kept: the tensors themselves, for a metric; without one nothing is kept but two sums.
    """

    task: TaskMetric | None = None
    noise: float = 0.0
    signal: float = 0.0
    kept: list[list[Tensor]] = field(default_factory=list)

    def add(self, exact: Sequence[Tensor], found: Sequence[Tensor]) -> None:
        """Take in one more batch: what the float model gave, and what this one gave."""
        for x, y in zip(exact, found, strict=True):
            x, y = x.double(), y.double()
            self.signal += float(x.square().sum())
            self.noise += float((x - y).square().sum())
        if self.task is not None:
            self.kept.append([t.cpu() for t in found])

    @property
    def error(self) -> float:
        """``|found - exact| / |exact|``, Frobenius norms over all elements of all outputs."""
        if not self.signal:
            return math.inf if self.noise else 0.0
        return math.sqrt(self.noise / self.signal)

    def score(self, exact: Outputs, targets: Sequence[Any]) -> float | None:
        """Return what the metric says of all outputs, None where there is none."""
        return None if self.task is None else self.task(_joined(self.kept), _joined(exact.kept), _targets(targets))


def _joined(kept: Sequence[Sequence[Tensor]]) -> Any:
    parts = [torch.cat(each) if each[0].dim() else torch.stack(each) for each in map(list, zip(*kept, strict=True))]
    return parts[0] if len(parts) == 1 else tuple(parts)


def _targets(targets: Sequence[Any]) -> Any:
    """Return the targets of all batches in one tensor where they are tensors, else in a list; None where there are none."""
    if all(t is None for t in targets):
        return None
    return torch.cat([t.cpu() for t in targets]) if all(isinstance(t, Tensor) for t in targets) else list(targets)
