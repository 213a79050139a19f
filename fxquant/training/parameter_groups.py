"""Which parameters weight decay applies to."""

from __future__ import annotations

from typing import Any

from timm.optim import param_groups_weight_decay
from torch import nn

from fxquant.observers.base import Observer

# As timm's models name what they do not decay; a graph keeps the names but not the models' own list.
_NOT_DECAYED = ("*cls_token", "*pos_embed", "*dist_token", "*reg_token", "*absolute_pos_embed", "*relative_position*")


def group_parameters(prepared: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """
    Return the parameter groups of the optimiser: one with weight decay, one without.

    Weights are decayed. Vectors, positions, tokens and the quantisers' own parameters are not. Parameters that need no
    gradient are in no group. Equal models give equal groups.
    """
    quantisers = [f"{path}.*" for path, module in prepared.named_modules() if isinstance(module, Observer)]
    groups: list[dict[str, Any]] = param_groups_weight_decay(
        prepared, weight_decay, no_weight_decay_list=(*_NOT_DECAYED, *quantisers)
    )
    return groups
