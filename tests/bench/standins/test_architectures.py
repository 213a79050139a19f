"""Small models of three kinds, whose missing weights name the command that trains them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bench.standins.architectures import STANDINS, build_standin, load_standin, weights_file
from bench.standins.glyphs import CHARACTERS, Glyphs
from bench.standins.training import save_weights
from fxquant.errors import CheckpointError, InputError

NAMES = tuple(STANDINS)


@pytest.mark.parametrize("name", NAMES)
def test_a_standin_is_small_and_gives_logits(name: str, few: Glyphs) -> None:
    model = build_standin(name).eval()
    assert sum(p.numel() for p in model.parameters()) <= 2_000_000
    with torch.no_grad():
        assert model(few.images[:2]).shape == (2, len(CHARACTERS))
    assert any(isinstance(module, nn.LayerNorm) for module in model.modules())
    assert any("GELU" in type(module).__name__ for module in model.modules())
    assert all(f"{name}.bias" in model.state_dict() for name, _ in model.named_modules() if name.endswith("qkv"))


def test_missing_weights_name_the_command_that_trains_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"python -m bench\.standins swin --seed 7"):
        load_standin("swin", 7, tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_weights(build_standin("deit"), weights_file("vit", 0, tmp_path), {})
    with pytest.raises(CheckpointError, match="does not hold the weights"):
        load_standin("vit", 0, tmp_path)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="vit, deit, swin"):
        build_standin("resnet")
