"""Let batch norms follow the batches while a model is trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.calls import arguments_of
from fxquant.graph.meta import inherit_meta
from fxquant.graph.rewrite import blame, edit
from fxquant.ops.train_modules import BATCH_NORM_OPERANDS, BatchNorm


def train_batch_norms(gm: fx.GraphModule) -> PassResult:
    """
    Turn each batch norm into a module that has a training mode.

    Before:  y = batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, False, 0.1, 1e-5)
    Becomes: y = batch_norms.0(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)

    `end_training` turns it back. A batch norm without running statistics stays.
    """
    return edit(gm, _train)


def _train(gm: fx.GraphModule) -> bool:
    nodes = [n for n in gm.graph.nodes if n.op == "call_function" and n.target in (F.batch_norm, torch.batch_norm)]
    modified = False
    for index, node in enumerate(nodes):
        with blame("train_batch_norms", node):
            modified |= _replace(gm, node, f"batch_norm_{index}")
    return modified


def _replace(gm: fx.GraphModule, node: fx.Node, name: str) -> bool:
    given = arguments_of(node) if node.target is F.batch_norm else None
    if given is None or given["running_mean"] is None or given["training"]:
        return False
    gm.add_submodule(f"train_modules.{name}", BatchNorm(given["momentum"], given["eps"]).train(gm.training))
    with gm.graph.inserting_before(node):
        call = gm.graph.call_module(f"train_modules.{name}", tuple(given[key] for key in BATCH_NORM_OPERANDS))
    inherit_meta(call, node)
    node.replace_all_uses_with(call)
    gm.graph.erase_node(node)
    return True
