"""The cases, and how often each is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.robustness import (
    damaged_files,
    full_disk,
    interrupts,
    kernel_builds,
    kills_in_save,
    kills_in_train,
    misuse,
)
from bench.robustness.outcomes import Outcomes


@dataclass(frozen=True)
class Case:
    """What is tried. text: as the table says it. tries: how often; quick: how often where that is enough."""

    name: str
    text: str
    run: Callable[[int, int, Path], Outcomes]
    tries: int
    quick: int = 2


CASES = (
    Case("save", "killed (SIGKILL) while a model is saved over another", kills_in_save.run, 1000),
    Case("train", "killed while it trains, then resumed", kills_in_train.run, 1000, 1),
    Case("build", "killed while it builds kernels", kernel_builds.kills, 1000, 1),
    Case("builds-at-once", "two processes build the same kernels", kernel_builds.at_once, 100, 1),
    Case("library", "a kept library of kernels is cut off, changed or replaced", kernel_builds.damaged, 300, 3),
    Case("cut", "a saved model is cut off at a byte", damaged_files.cut, 500, 4),
    Case("bit", "one bit of a saved model is changed", damaged_files.flipped, 2000, 4),
    Case("state", "the checkpoint of a training is cut off or one bit is changed", damaged_files.states, 500),
    Case("disk", "the disk is full while a model, a checkpoint or a report is written", full_disk.run, 300, 3),
    Case("interrupt", "Ctrl-C at any time of a training, every second time twice", interrupts.run, 60, 0),
    Case("threads", "one model called from eight threads", misuse.threads, 2000, 8),
    Case("nan", "an image with a value that is NaN or infinite", misuse.not_numbers, 200, 4),
)
