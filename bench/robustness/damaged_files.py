"""Saved models and checkpoints of trainings that are cut off or changed: what loading them says."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch

import fxquant
from bench.robustness.outcomes import Outcomes
from bench.robustness.subjects import images, int8_model, training
from fxquant.errors import FxquantError
from fxquant.training import TrainingOptions, train
from fxquant.training.loop import CHECKPOINT
from fxquant.training.state_file import read_state


def cut(tries: int, seed: int, folder: Path) -> Outcomes:
    """Load a model from the first bytes of its file: none, one, each power of two, and random lengths up to all but one."""
    whole, check = _model(folder)
    draw = random.Random(seed)
    lengths = [0, *(2**power for power in range(len(whole).bit_length())), len(whole) - 1]
    lengths += [draw.randrange(len(whole)) for _ in range(tries - len(lengths))]
    return _tried((whole[:length] for length in lengths[:tries]), check)  # type: ignore[arg-type]


def flipped(tries: int, seed: int, folder: Path) -> Outcomes:
    """Load a model from a file of which one bit is changed."""
    whole, check = _model(folder)
    draw = random.Random(seed)
    return _tried((_flip(whole, draw) for _ in range(tries)), check)  # type: ignore[arg-type]


def states(tries: int, seed: int, folder: Path) -> Outcomes:
    """Read the checkpoint of a training, cut off or with one bit changed in turn."""
    prepared, data = training()
    train(prepared, data, TrainingOptions(epochs=1, batch_size=4, warmup_epochs=0), folder=folder, progress=False)
    file, draw = folder / CHECKPOINT, random.Random(seed)
    whole, wanted = file.read_bytes(), read_state(file)["model"]

    def check(content: bytes) -> bool:
        file.write_bytes(content)
        found = read_state(file)["model"]
        return all(torch.equal(found[name], value) for name, value in wanted.items())

    damaged = (whole[: draw.randrange(len(whole))] if n % 2 else _flip(whole, draw) for n in range(tries))
    return _tried(damaged, check)  # type: ignore[arg-type]


def _model(folder: Path) -> tuple[bytes, Callable[[bytes], bool]]:
    """Return the bytes of a saved model, and whether other bytes load as one with the same logits."""
    file, model, x = folder / "model.safetensors", int8_model(), images()
    fxquant.save(model, file)
    logits = model(x)

    def check(content: bytes) -> bool:
        file.write_bytes(content)
        return torch.equal(fxquant.load(file)(x), logits)

    return file.read_bytes(), check


def _tried(contents: list[bytes], check: Callable[[bytes], bool]) -> Outcomes:
    found = Outcomes()
    for content in contents:
        try:
            found.count(check(content), "loaded, with equal results", "loaded, with other results")
        except FxquantError:
            found.good["refused"] += 1
        except Exception as error:
            found.bad[f"raised {type(error).__name__}"] += 1
    return found


def _flip(whole: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(whole))
    return whole[:place] + bytes((whole[place] ^ 1 << draw.randrange(8),)) + whole[place + 1 :]
