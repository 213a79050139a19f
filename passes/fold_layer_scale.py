"""Fold a factor per channel into the linear layer before it."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import reads_tensor, tensor_of
from fxquant.graph.channels import has_constant_weight
from fxquant.graph.fold_tensors import change_rows
from fxquant.graph.match import Call, Match, Var
from fxquant.graph.rewrite import Rule, rewrite


def fold_layer_scale(gm: fx.GraphModule) -> PassResult:
    """
    Fold the factors behind linear layers that nothing else reads, such as those of LayerScale.

    Before:  linear(x, w, b) * gamma          # gamma: (O,)
    Becomes: linear(x, w * gamma[:, None], b * gamma)
    """
    return rewrite(gm, RULES, "fold_layer_scale")


_LAYER = Call(F.linear, ..., name="layer")
_GAMMA = Var("gamma", where=reads_tensor)
_TIMES = (operator.mul, torch.mul)


def _fold(graph: fx.Graph, m: Match) -> fx.Node | None:
    layer, gamma = m["layer"], tensor_of(m["gamma"])
    if len(layer.users) > 1 or not has_constant_weight(layer):
        return None
    if gamma.dim() == 0 or gamma.numel() != gamma.shape[-1] or gamma.numel() != len(tensor_of(layer.args[1])):
        return None
    new = graph.node_copy(layer)
    factor = gamma.detach().double().flatten()
    change_rows(new, lambda rows: rows * factor)
    return new


RULES: tuple[Rule, ...] = ((Call(_TIMES, _LAYER, _GAMMA), _fold), (Call(_TIMES, _GAMMA, _LAYER), _fold))
