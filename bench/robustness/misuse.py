"""One model in many threads, and images that are no numbers."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

import fxquant
from bench.robustness.outcomes import Outcomes
from bench.robustness.subjects import images, int8_model

_THREADS = 8


def threads(tries: int, seed: int, folder: Path) -> Outcomes:
    """Call one model `tries` times from eight threads, loaded from a file; each has to give what one thread gives."""
    fxquant.save(int8_model(), folder / "model.safetensors")
    model, found = fxquant.load(folder / "model.safetensors"), Outcomes()
    batches = [images(seed=seed + number) for number in range(_THREADS)]
    wanted = [model(batch) for batch in batches]
    with ThreadPoolExecutor(_THREADS) as pool:
        for number, logits in enumerate(pool.map(lambda n: model(batches[n % _THREADS]), range(tries))):
            found.count(torch.equal(logits, wanted[number % _THREADS]), "the same logits", "other logits")
    return found


def not_numbers(tries: int, seed: int, folder: Path) -> Outcomes:
    """Give models images of which one value is NaN or infinite; plausible logits must not come out."""
    draw, found = random.Random(seed), Outcomes()
    models = [int8_model(recipe) for recipe in ("default", "ptq4vit", "fqvit", "noisyquant")]
    for number in range(tries):
        batch = images(2, seed + number)
        batch[0].view(-1)[draw.randrange(batch[0].numel())] = draw.choice((float("nan"), float("inf"), float("-inf")))
        try:
            logits = models[number % len(models)](batch)
        except fxquant.FxquantError:
            found.good["refused"] += 1
            continue
        found.count(not bool(logits[0].isfinite().all()), "no number came out", "plausible logits came out")
    return found
