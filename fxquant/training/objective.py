"""The loss that a training minimises."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from fxquant.distillation import SoftTargets, soft_cross_entropy
from fxquant.training.bit_budget import bit_operations
from fxquant.training.options import TrainingOptions
from fxquant.training.regulariser import regulariser_weight, variation_regulariser

# What `Objective` gives beside the loss, in this order.
PARTS = ("task_loss", "variation", "bit_operations")


class Objective:
    """The loss of a prepared model: the loss of its logits, plus what `options` add for its weights and bit widths."""

    def __init__(self, prepared: fx.GraphModule, options: TrainingOptions) -> None:
        self.prepared, self.options = prepared, options

    def weight(self, epoch: int) -> float:
        """Return the weight of the regulariser in `epoch`, 0 where the regulariser is off."""
        if not self.options.regulariser:
            return 0.0
        return regulariser_weight(epoch, self.options.epochs, self.options.regulariser_weight)

    def __call__(self, logits: Tensor, targets: Tensor | SoftTargets, weight: float) -> tuple[Tensor, Tensor]:
        """
        Return the loss, a scalar, and its parts ``(3,)`` without gradients, in the order of `PARTS`; a part that is off is
        0.

        logits: ``(R, C)``.
        targets: class indices ``(R,)`` or soft targets of R rows.
        weight: the weight of the regulariser.
        """
        if isinstance(targets, SoftTargets):
            task = soft_cross_entropy(logits, targets)
        else:
            task = F.cross_entropy(logits.float(), targets)
        loss, variation, operations = task, task.new_zeros(()), task.new_zeros(())
        if weight:
            variation = variation_regulariser(self.prepared)
            loss = loss + weight * variation
        if self.options.budget is not None:
            operations = bit_operations(self.prepared)
            loss = loss + self.options.budget_weight * (operations - self.options.budget).relu().square()
        return loss, torch.stack((task, variation, operations)).detach()
