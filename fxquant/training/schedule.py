"""The passes that a training makes over the images, and their learning rates."""

from __future__ import annotations

from dataclasses import dataclass

from timm.scheduler import CosineLRScheduler
from torch.optim import Optimizer

from fxquant.errors import ConfigError
from fxquant.training.options import TrainingOptions


@dataclass(frozen=True)
class EpochPass:
    """
    One pass over the training images, which shows `crops` crops of each.

    epoch: the number of epochs before this pass.
    lr_epoch: the epoch whose learning rate the pass uses. It is `epoch`, but for the last passes: see `plan_passes`.
    images: the number of images in a step, over all ranks together.
    steps: the number of steps.
    """

    epoch: int
    crops: int
    lr_epoch: int
    images: int
    steps: int


def plan_passes(options: TrainingOptions, count: int, multi_crop: bool, world: int = 1) -> tuple[EpochPass, ...]:
    """
    Return the passes over `count` images.

    A pass with several crops counts as that many epochs. Two kinds of passes show one crop: those of the warm-up, and those
    of the last `crops` epochs. The latter use the learning rate of the epoch after them, so that the very last one is at
    `min_lr`. That is how FKD's published code has it (Shen and Xing, "A Fast Knowledge Distillation Framework for Visual
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
    """Return a scheduler whose ``step(epoch)`` sets the learning rate of that epoch, whatever it was before."""
    return CosineLRScheduler(
        optimizer,
        t_initial=options.epochs,
        lr_min=options.min_lr,
        warmup_t=options.warmup_epochs,
        warmup_lr_init=options.warmup_lr,
        cycle_decay=0.5,  # of a second cycle, which never comes; with 1, timm warns of a single epoch
    )
