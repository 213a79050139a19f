"""Which passes over the images a training makes, and their learning rates."""

from __future__ import annotations

from dataclasses import dataclass

from timm.scheduler import CosineLRScheduler
from torch.optim import Optimizer

from fxquant.errors import ConfigError
from fxquant.training.options import TrainingOptions


@dataclass(frozen=True)
class EpochPass:
    """
    Every image once, in `crops` crops. epoch: how many were counted before it. lr_epoch: that the learning rate is of.

    images: per step, over all ranks together. steps: how many.
    """

    epoch: int
    crops: int
    lr_epoch: int
    images: int
    steps: int


def plan_passes(options: TrainingOptions, count: int, multi_crop: bool, world: int = 1) -> tuple[EpochPass, ...]:
    """
    Return the passes over `count` images.

    With several crops a pass counts as that many epochs, apart from warm-up epochs and the last ones: from `crops` epochs
    before the end on, passes show one crop. Those run at the rate of the epoch that follows them, as FKD's published code has
    it, so that the very last one is at `min_lr` (Shen and Xing, "A Fast Knowledge Distillation Framework for Visual
    Recognition", ECCV 2022).

    Raises `ConfigError` for a batch that cannot be shared equally among the ranks.
    """
    crops = options.crops if multi_crop else 1
    if options.batch_size % (crops * world):
        raise ConfigError(
            f"batch_size {options.batch_size} cannot be shared equally: expected a multiple of {crops * world}, "
            f"{crops} crops on {world} ranks"
        )

    def make(epoch: int, crops: int, lr_epoch: int) -> EpochPass:
        images = options.batch_size // crops
        shared = -(-count // world)  # the sampler repeats a few images where they cannot be shared equally
        return EpochPass(epoch, crops, lr_epoch, images, -(-shared // (images // world)))

    if crops == 1:
        return tuple(make(epoch, 1, epoch) for epoch in range(options.epochs))
    first, end = options.warmup_epochs, options.epochs
    several = range(first, max(first, end - crops), crops)
    single = range(several[-1] + crops if several else first, end)
    return (
        *(make(epoch, 1, epoch) for epoch in range(first)),
        *(make(epoch, crops, epoch) for epoch in several),
        *(make(epoch, 1, epoch + 1) for epoch in single),
    )


def make_scheduler(optimizer: Optimizer, options: TrainingOptions) -> CosineLRScheduler:
    """Return the scheduler whose ``step(epoch)`` sets the learning rate of an epoch, whatever it was before."""
    return CosineLRScheduler(
        optimizer,
        t_initial=options.epochs,
        lr_min=options.min_lr,
        warmup_t=options.warmup_epochs,
        warmup_lr_init=options.warmup_lr,
        cycle_decay=0.5,  # of a second cycle, which never comes; with 1, timm warns of a single epoch
    )
