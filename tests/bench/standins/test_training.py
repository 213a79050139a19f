"""Training that repeats bit for bit, and weights that are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.standins.architectures import STANDINS
from bench.standins.glyphs import Glyphs
from bench.standins.training import StandinTraining, recipe_for, save_weights, train_standin
from fxquant.errors import ConfigError, InputError
from tests.bench.standins.models import same
from tests.support.tiers import keep_quick

NAMES = tuple(STANDINS)


@pytest.mark.parametrize("name", keep_quick(NAMES, "deit"))
def test_two_steps_of_training_repeat_bit_for_bit(name: str, few: Glyphs) -> None:
    torch.use_deterministic_algorithms(True)
    before = torch.random.get_rng_state()
    recipe = StandinTraining(epochs=2 / 3, batch_size=32)
    one, again, other = (train_standin(name, few, r) for r in (recipe, recipe, recipe_for(name, 1, 2 / 3)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not one.training
    assert same(one, again)
    assert not same(one, other)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("bench.standins.training.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(nn.Linear(1, 1), tmp_path / "weights.safetensors", {})
    assert not list(tmp_path.iterdir())


def test_unknown_names_and_empty_recipes_are_refused() -> None:
    with pytest.raises(InputError, match="vit, deit, swin"):
        recipe_for("resnet")
    with pytest.raises(ConfigError, match="must be positive"):
        StandinTraining(epochs=0)
