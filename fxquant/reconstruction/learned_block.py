"""What of a block is trained, and how it comes to the observers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from fxquant.graph.attributes import bias_of, called_module, reads_tensor, weight_of
from fxquant.observers.base import Observer
from fxquant.reconstruction.evaluator import weight_observer
from fxquant.reconstruction.straight_through import StraightThrough, has_trainable_scale, is_uniform


@dataclass(frozen=True, eq=False)
class LearnedBlock:
    """
    The parameters of one block; each starts from what the observer holds.

    weights: ``(O, ...)`` and shifts: ``(O,)``, by the observer of the weight. log_scales: 0-dim or ``(G,)``, by that of an
    activation.
    """

    weights: dict[Observer, Tensor]
    shifts: dict[Observer, Tensor]
    log_scales: dict[Observer, Tensor]

    @staticmethod
    def of(nodes: Iterable[fx.Node], settled: set[Observer]) -> LearnedBlock:
        """Return the parameters of the operators `nodes` of a block; what is `settled` belongs to a block before."""
        found = LearnedBlock({}, {}, {})
        for node in nodes:
            observer = weight_observer(node)
            if observer is not None and observer not in settled and is_uniform(observer):
                found.add_product(node, observer)
            module = called_module(node)
            constant = reads_tensor(node.args[0]) if node.args else False
            fresh = isinstance(module, Observer) and module not in settled
            if isinstance(module, Observer) and fresh and not constant and has_trainable_scale(module):
                found.log_scales[module] = _trainable(module.calculate_qparams().scale.log())
        return found

    def add_product(self, node: fx.Node, observer: Observer) -> None:
        """Train the weight of a product, and its bias where that is a constant or absent."""
        weight = weight_of(node)
        self.weights[observer] = _trainable(observer.quantized_from(weight))
        bias = bias_of(node)
        if bias is None or reads_tensor(bias):
            held = observer.bias_shift
            self.shifts[observer] = _trainable(held if held.numel() else weight.new_zeros(weight.shape[0]))

    @property
    def observers(self) -> set[Observer]:
        """The observers whose quantisation is trained."""
        return {*self.weights, *self.log_scales}

    @property
    def parameters(self) -> list[Tensor]:
        """All that is trained."""
        return [*self.weights.values(), *self.shifts.values(), *self.log_scales.values()]

    def operands(self) -> StraightThrough:
        """Return the operands as they are while these parameters are trained."""
        return StraightThrough(self.weights, self.log_scales, self.shifts)

    @torch.no_grad()
    def store(self) -> None:
        """Give the observers what was trained."""
        for observer, weight in self.weights.items():
            observer.found_weight = weight.detach().clone()
        for observer, shift in self.shifts.items():
            observer.bias_shift = shift.detach().clone()
        for observer, log_scale in self.log_scales.items():
            observer.refine(replace(observer.calculate_qparams(), scale=log_scale.exp()))


def _trainable(value: Tensor) -> Tensor:
    return value.detach().float().clone().requires_grad_()
