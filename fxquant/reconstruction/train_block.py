"""Train one block on the images, and keep what was trained where images held out say so."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxquant.distributed import rank, sum_over_ranks, world_size
from fxquant.reconstruction.block_loss import BlockLoss, Errors
from fxquant.reconstruction.learned_block import LearnedBlock
from fxquant.reconstruction.reconstruction_options import ReconstructionOptions

Measure = Callable[[Tensor], Errors]  # of the images with these numbers


@dataclass(frozen=True)
class BlockOutcome:
    """Losses of one block on the images held out, before and after it was trained, and whether that was kept."""

    label: str
    before: float
    after: float
    kept: bool


@dataclass(frozen=True, eq=False)
class Trainer:
    """
    Trains blocks.

    train, held_out: the numbers of the images. seed: of the order in which images are drawn.
    """

    options: ReconstructionOptions
    train: Tensor
    held_out: Tensor
    seed: int

    def fit(
        self, label: str, learned: LearnedBlock, measure: Measure, index: int, step: Callable[[float], object]
    ) -> BlockOutcome:
        """
        Train the parameters `learned` of block number `index` by the errors that `measure` returns with gradients.

        step is called with the loss of each iteration. In a process group every rank takes its part of each batch, and
        gradients are those of the whole batch.
        """
        generator = torch.Generator().manual_seed(self.seed + index)
        loss: BlockLoss | None = None
        before = math.nan
        optimizer = self._optimizer(learned)
        for iteration in range(self.options.iterations):
            self._set_steps(optimizer, iteration)
            chosen = torch.randperm(len(self.train), generator=generator)[: self.options.batch_size]
            numbers, share = _own_part(self.train[chosen])
            errors = measure(numbers)
            if loss is None:
                loss = BlockLoss(_averaged(errors, share), self.options.local_weight)
                before = self._held_out_loss(loss, measure)
            value = loss.of(errors) * share
            optimizer.zero_grad()
            value.backward()
            for parameter in learned.parameters if world_size() > 1 else ():
                parameter.grad = sum_over_ranks(
                    torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                )
            optimizer.step()
            step(float(value.detach()))
        after = math.nan if loss is None else self._held_out_loss(loss, measure)
        return BlockOutcome(label, before, after, after < before)

    def _optimizer(self, learned: LearnedBlock) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [
            {"params": list(learned.log_scales.values()), "step": self.options.step_of_scales}
        ]
        for observer, weight in learned.weights.items():
            step = self.options.step_of_weight(float(observer.calculate_qparams().scale.mean()))
            own = [weight, learned.shifts[observer]] if observer in learned.shifts else [weight]
            groups.append({"params": own, "step": step})
        return torch.optim.Adam([g for g in groups if g["params"]])

    def _set_steps(self, optimizer: torch.optim.Optimizer, iteration: int) -> None:
        done = iteration / self.options.iterations
        factor = (1 + math.cos(math.pi * done)) / 2 if self.options.decays else 1.0
        for group in optimizer.param_groups:
            group["lr"] = group["step"] * factor

    @torch.no_grad()
    def _held_out_loss(self, loss: BlockLoss, measure: Measure) -> float:
        """Return the loss over all images held out."""
        total = torch.zeros((), dtype=torch.float64)
        for numbers in self.held_out.split(self.options.batch_size):
            total += float(loss.of(measure(numbers))) * len(numbers)
        return float(total) / len(self.held_out)


def _own_part(numbers: Tensor) -> tuple[Tensor, float]:
    """Return the images of this rank, at least one, and by what their mean error counts so that ranks add up to the batch's."""
    own = numbers[rank() :: world_size()]
    return (own, len(own) / len(numbers)) if len(own) else (numbers[:1], 0.0)


def _averaged(errors: Errors, share: float) -> Errors:
    """Return the errors of the batch that all ranks have a part of."""
    local = sum_over_ranks(errors.local * share)
    return Errors(local, None if errors.remote is None else sum_over_ranks(errors.remote * share))
