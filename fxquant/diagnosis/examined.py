"""What is looked at: the graphs of a model, and what it gives for the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx

from fxquant.config.quant_config import QuantConfig
from fxquant.data.data_config import DataConfig
from fxquant.graph.inputs import Batch, batch_size, has_batch
from fxquant.precision.run_outputs import Outputs, Shown, floats_of, read_batches
from fxquant.precision.task_metrics import TaskMetric, top1

_TIMED = 8  # images


@dataclass(frozen=True, eq=False)
class FloatSide:
    """The float graph, the config that it was prepared with, the prepared graph, and the batches that calibrated that."""

    traced: fx.GraphModule
    config: QuantConfig
    prepared: fx.GraphModule
    batches: Sequence[Batch]
    seed: int


@dataclass(frozen=True, eq=False)
class Examined:
    """
    A quantised graph, and what it is judged by.

    source: where it is from, None for a graph that was given quantised. made_up: nobody gave images, the model was calibrated
    with noise. calibration, evaluation: empty where there are none. own: the data config of the model; given: the one by which
    the images were prepared; None where that is unknown.
    """

    quantized: fx.GraphModule
    source: FloatSide | None
    made_up: bool
    calibration: Sequence[Shown]
    evaluation: Sequence[Shown]
    own: DataConfig | None
    given: DataConfig | None

    @property
    def judged(self) -> fx.GraphModule:
        """The float graph, or the quantised one where there is no other."""
        return self.quantized if self.source is None else self.source.traced

    @cached_property
    def floats(self) -> list[list[Tensor]]:
        """What `judged` gives for each evaluation batch."""
        with torch.no_grad():
            return [floats_of(self.judged(*each.inputs)) for each in self.evaluation]

    @cached_property
    def labels(self) -> Tensor | None:
        """The labels ``(n,)`` of all evaluation images; None where they have none, or the model gives no logits for them."""
        found = [each.targets for each in self.evaluation]
        if not found or not all(isinstance(t, Tensor) and t.dim() == 1 and not t.is_floating_point() for t in found):
            return None
        logits = [each[0] for each in self.floats if len(each) == 1 and each[0].dim() == 2]
        labels = torch.cat([t.cpu() for t in found])
        fits = len(logits) == len(found) and len(labels) == sum(map(len, logits))
        return labels if fits and int(labels.min()) >= 0 and int(labels.max()) < logits[0].shape[1] else None

    @property
    def classes(self) -> int:
        """How many logits the model gives."""
        return int(self.floats[0][0].shape[1])

    def outputs(self) -> Outputs:
        """Return an empty record of outputs, which are scored where there are labels."""
        return Outputs(None if self.labels is None else TaskMetric(top1, "top1"))

    @cached_property
    def exact(self) -> Outputs:
        """What `judged` gives for all evaluation images, with its score."""
        found = self.outputs()
        for each in self.floats:
            found.add(each, each)
        return found

    def score(self, outputs: Outputs) -> float | None:
        """Return the top-1 of `outputs` for the evaluation images in percent, None without labels."""
        return outputs.score(self.exact, [each.targets for each in self.evaluation])

    @property
    def timed(self) -> tuple[Tensor, ...]:
        """The inputs of a few images, on which times are measured."""
        inputs = next(iter((*self.evaluation, *self.calibration))).inputs
        return tuple(t[:_TIMED] if has_batch(t, inputs) else t for t in inputs)


def pixels(shown: Sequence[Shown]) -> Tensor | None:
    """Return the images ``(n, C, H, W)`` among the inputs, float32 on the CPU; None where the model takes none."""
    found = [t for each in shown for t in each.inputs[:1] if t.dim() == 4 and t.is_floating_point()]
    sizes = {tuple(t.shape[1:]) for t in found}
    return torch.cat([t.cpu().float() for t in found]) if len(sizes) == 1 and len(found) == len(shown) else None


def shown_by(gm: fx.GraphModule, batches: Sequence[Batch]) -> list[Shown]:
    """Return `batches` as `gm` takes them, none where there is none."""
    return read_batches(gm, batches) if batches else []


def in_two(shown: Sequence[Shown]) -> Sequence[Shown]:
    """Return a single batch of several images as two, so that one may calibrate what the other measures."""
    count = batch_size(shown[0].inputs) if len(shown) == 1 else 0
    targets = shown[0].targets if count else None
    if count < 2 or not (targets is None or (isinstance(targets, Tensor) and len(targets) == count)):
        return shown
    inputs, middle = shown[0].inputs, -(-count // 2)
    return [
        Shown(tuple(t[part] if has_batch(t, inputs) else t for t in inputs), None if targets is None else targets[part])
        for part in (slice(middle), slice(middle, None))
    ]
