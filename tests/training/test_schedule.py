"""Passes and learning rates are those of FKD's published loop, written out here."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from fxquant import ConfigError
from fxquant.training import TrainingOptions
from fxquant.training.schedule import make_scheduler, plan_passes


def make_optimizer(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def published(epochs: int, crops: int, lr: float, warmup: int) -> Iterator[tuple[int, int, float]]:
    """Yield epoch, crops and learning rate of each pass, in the order of the published statements."""
    optimizer = make_optimizer(lr)
    scheduler = CosineLRScheduler(optimizer, t_initial=epochs, lr_min=0.0, warmup_t=warmup, warmup_lr_init=1e-6)

    def rate() -> float:
        return float(optimizer.param_groups[0]["lr"])

    for epoch in range(warmup):
        yield epoch, 1, rate()
        scheduler.step(epoch + 1)
    for epoch in range(warmup, epochs, crops):
        if epoch >= epochs - crops:
            for last in range(epoch, epochs):
                scheduler.step(last + 1)
                yield last, 1, rate()
            return
        yield epoch, crops, rate()
        scheduler.step(epoch + crops)


@pytest.mark.parametrize(("epochs", "crops", "warmup"), [(150, 4, 0), (150, 4, 5), (9, 4, 0), (3, 4, 0), (8, 2, 3)])
def test_with_several_crops_as_published(epochs: int, crops: int, warmup: int) -> None:
    options = TrainingOptions(epochs=epochs, crops=crops, warmup_epochs=warmup)
    optimizer = make_optimizer(options.lr)
    scheduler = make_scheduler(optimizer, options)
    made = []
    for now in plan_passes(options, 1000, multi_crop=True):
        scheduler.step(now.lr_epoch)
        made.append((now.epoch, now.crops, optimizer.param_groups[0]["lr"]))
    assert made == list(published(epochs, crops, options.lr, warmup))


def test_the_published_run_has_37_passes_and_2_epochs() -> None:
    passes = plan_passes(TrainingOptions(batch_size=1024), 1281167, multi_crop=True)
    assert [(p.epoch, p.crops) for p in passes] == [(e, 4) for e in range(0, 148, 4)] + [(148, 1), (149, 1)]
    assert {(p.images, p.steps) for p in passes} == {(256, 5005), (1024, 1252)}


def test_without_soft_labels_each_pass_is_an_epoch_at_its_own_rate() -> None:
    options = TrainingOptions(epochs=4, batch_size=8, lr=1.0, warmup_epochs=1, warmup_lr=0.5)
    passes = plan_passes(options, 20, multi_crop=False)
    assert [(p.epoch, p.crops, p.lr_epoch, p.images, p.steps) for p in passes] == [(e, 1, e, 8, 3) for e in range(4)]
    optimizer = make_optimizer(1.0)
    scheduler = make_scheduler(optimizer, options)
    rates = []
    for now in passes:
        scheduler.step(now.lr_epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.5, *(0.5 * (1 + math.cos(math.pi * e / 4)) for e in (1, 2, 3))])


def test_ranks_share_a_step_equally() -> None:
    options = TrainingOptions(epochs=8, batch_size=24, crops=4)
    alone, shared = (plan_passes(options, 31, multi_crop=True, world=world) for world in (1, 3))
    assert [(p.images, p.steps) for p in alone] == [(p.images, p.steps) for p in shared] == [(6, 6)] + [(24, 2)] * 4
    with pytest.raises(ConfigError, match="batch_size 24 cannot be shared equally: expected a multiple of 20"):
        plan_passes(options, 31, multi_crop=True, world=5)


def test_a_single_epoch_is_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    optimizer = make_optimizer(0.5)
    scheduler = make_scheduler(optimizer, TrainingOptions(epochs=1, lr=0.5, min_lr=0.1))
    assert not caplog.records
    for epoch, rate in ((0, 0.5), (1, 0.1)):
        scheduler.step(epoch)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)
