"""SIGKILL at random moments in trainings, which then go on to their end."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from bench.robustness.forks import kill_within, seconds_of
from bench.robustness.outcomes import Outcomes
from bench.robustness.subjects import training
from fxquant.training import TrainingOptions, train
from fxquant.training.loop import CHECKPOINT
from fxquant.training.state_file import read_state

_OPTIONS = TrainingOptions(epochs=4, batch_size=4, ema_decay=0.8)
_KILLS = 4  # of each training before it is left alone


def run(tries: int, seed: int, folder: Path) -> Outcomes:
    """Kill trainings `tries` times; each has to end with the weights of one that was left alone, bit for bit."""
    draw, found = random.Random(seed), Outcomes()
    seconds = seconds_of(lambda: _train(folder / "whole"))
    wanted = read_state(folder / "whole" / CHECKPOINT)["model"]
    for number in range(-(-tries // _KILLS)):
        place = folder / f"killed_{number}"
        kills = min(_KILLS, tries - number * _KILLS)
        for _ in range(kills):
            kill_within(lambda place=place: _train(place), seconds, draw)  # type: ignore[misc]
        seconds_of(lambda place=place: _train(place))  # type: ignore[misc]
        weights = read_state(place / CHECKPOINT)["model"]
        same = all(torch.equal(weights[name], value) for name, value in wanted.items())
        found.count(same, "went on to the same weights", "ended with other weights")
        left = [path.name for path in place.iterdir() if path.name.startswith(".")]
        found.bad.update({"temporary files left": len(left)} if left else {})
    return found


def _train(place: Path) -> None:
    prepared, data = training()
    train(prepared, data, _OPTIONS, folder=place, resume=True, checkpoint_minutes=0, progress=False)
