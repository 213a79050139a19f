"""Spell each operator one way and drop what does nothing at inference."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.dialect.spellings import respelling
from fxquant.graph.rewrite import blame, edit

_DROPOUT = {F.dropout, torch.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
_VIEWS = {"view": "reshape", "view_as": "reshape_as"}


def canonicalize(gm: fx.GraphModule) -> PassResult:
    """
    Bring a traced graph into the functional dialect.

    Before:  x @ y          x.softmax(dim=-1)     F.linear(x, weight=w, bias=b)     F.dropout(x, 0.1, False)
    Becomes: matmul(x, y)   softmax(x, -1)        F.linear(x, w, b)                 x

    Before:  x.view(B, -1)      # which later passes could not keep: an int8 convolution has another layout in memory
    Becomes: x.reshape(B, -1)
    """

    def change(module: fx.GraphModule) -> bool:
        modified = False
        for node in list(module.graph.nodes):
            with blame("canonicalize", node):
                modified |= _canonicalize_node(node)
        return modified

    return edit(gm, change)


def _canonicalize_node(node: fx.Node) -> bool:
    if _does_nothing(node):
        node.replace_all_uses_with(node.all_input_nodes[0])
        node.graph.erase_node(node)
        return True
    if node.target is torch._assert:
        return _clean_message(node)
    if node.op == "call_method" and node.target in _VIEWS and not _reads_as_dtype(node):
        node.target = _VIEWS[node.target]
        return True
    spelling = respelling(node)
    if spelling is not None:
        # In place, so that the node keeps its name: that of a product is what reports and errors call it.
        node.op = "call_function"
        node.target, node.args, node.kwargs = spelling
    return spelling is not None


def _reads_as_dtype(node: fx.Node) -> bool:
    return bool(node.kwargs) or isinstance(node.args[1], torch.dtype)


def _does_nothing(node: fx.Node) -> bool:
    if node.target in _DROPOUT:
        arguments = dict(zip(("input", "p", "training", "inplace"), node.args, strict=False)) | dict(node.kwargs)
        return arguments.get("training", arguments.get("train", True)) is False or bool(arguments.get("p") == 0.0)
    return node.op == "call_method" and node.target in ("detach",)


def _clean_message(node: fx.Node) -> bool:
    # Messages were formatted while sizes were proxies: "Input height (Proxy(getitem_2)) doesn't match model (224)."
    message: str = str(node.args[1]) if len(node.args) > 1 else ""
    cleaned = re.sub(r"\s*\(?Proxy\([^)]*\)\)?", "", message)
    if cleaned == message:
        return False
    node.args = (node.args[0], cleaned)
    return True
