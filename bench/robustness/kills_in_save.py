"""SIGKILL at random moments while a model is saved over another one."""

from __future__ import annotations

import random
from pathlib import Path

import torch

import fxquant
from bench.robustness.forks import kill_within, seconds_of
from bench.robustness.outcomes import Outcomes
from bench.robustness.subjects import images, int8_model

_OVER = 1.3  # kills fall into the save and a little after it


def run(tries: int, seed: int, folder: Path) -> Outcomes:
    """Kill `tries` saves; after each the file has to be the one before or the new one, and the next save leaves no other."""
    draw, found = random.Random(seed), Outcomes()
    file, x = folder / "model.safetensors", images()
    models = [int8_model(), int8_model("percentile")]
    logits = [model(x) for model in models]
    fxquant.save(models[0], file)
    seconds = max(seconds_of(lambda: fxquant.save(models[1], file)) for _ in range(3))
    for number in range(tries):
        model = models[number % 2]
        kill_within(lambda model=model: fxquant.save(model, file), _OVER * seconds, draw)  # type: ignore[misc]
        given = fxquant.load(file)(x)
        found.count(any(torch.equal(given, own) for own in logits), "the file was whole", "another file was there")
    fxquant.save(models[0], file)
    left = [path for path in folder.iterdir() if path != file]
    found.bad.update({"temporary files left after the next save": len(left)} if left else {})
    return found
