"""Weight decay is for weights."""

from __future__ import annotations

from torch import nn

import fxquant
from fxquant.training.parameter_groups import group_parameters
from tests.support.models import images, small_swin
from tests.support.trained_models import prepared_vit


def decayed(prepared: nn.Module) -> set[str]:
    groups = {group["weight_decay"]: {id(p) for p in group["params"]} for group in group_parameters(prepared, 0.1)}
    assert set(groups) == {0.0, 0.1}
    assert not groups[0.0] & groups[0.1]
    assert sum(map(len, groups.values())) == len(list(prepared.parameters()))
    return {name for name, p in prepared.named_parameters() if id(p) in groups[0.1]}


def test_vectors_positions_tokens_and_steps_are_not_decayed() -> None:
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    wanted = {"patch_embed.proj.weight", "head.weight", *(f"blocks.0.{layer}.weight" for layer in layers)}
    assert decayed(prepared_vit()) == wanted


def test_relative_positions_are_not_decayed() -> None:
    swin = fxquant.prepare_qat(small_swin(), fxquant.recipe("vvtq", 4, 4), images())
    assert all(name.endswith("weight") for name in decayed(swin))
