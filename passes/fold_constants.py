"""Compute once what depends on parameters alone."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.attributes import read_buffer
from fxquant.meta import module_path
from fxquant.rewrite import edit, inherit_meta

_IMPURE = {torch.rand, torch.randn, torch.randint, torch._assert, torch.bernoulli}


def fold_constants(gm: fx.GraphModule) -> PassResult:
    """
    Replace values computed from parameters and buffers alone by buffers.

    Before:  table: (169, H) -> table[index] -> view -> permute(2, 0, 1) -> add(scores, .)
    Becomes: add(scores, self.blocks.0.attn.permute)      # (H, N, N), computed once

    The value moves to a buffer, so later training of the parameter it came from has no effect on it.
    """
    return edit(gm, _fold)


def _fold(gm: fx.GraphModule) -> bool:
    constant: set[fx.Node] = set()
    for node in gm.graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "get_attr" or (_is_pure(node) and inputs and all(i in constant for i in inputs)):
            constant.add(node)
    # Only the last constant node of each chain becomes a buffer.
    last = [
        n for n in gm.graph.nodes if n in constant and n.op != "get_attr" and any(u not in constant for u in n.users)
    ]
    values = _Evaluate(gm)
    folded = False
    for node in last:
        value = values.of(node)
        if not isinstance(value, Tensor):
            continue
        with gm.graph.inserting_before(node):
            path = module_path(node)
            new = read_buffer(gm.graph, f"{path}.{node.name}" if path else node.name, value.contiguous())
        inherit_meta(new, node)
        node.replace_all_uses_with(new)
        folded = True
    return folded


def _is_pure(node: fx.Node) -> bool:
    return node.op == "call_method" or (node.op == "call_function" and node.target not in _IMPURE)


class _Evaluate(fx.Interpreter):
    """Run single nodes of a graph whose inputs are all constant."""

    @torch.no_grad()
    def of(self, node: fx.Node) -> object:
        """Return the value of `node`, computing what it reads first."""
        for needed in node.all_input_nodes:
            if needed not in self.env:
                self.of(needed)
        self.env[node] = self.run_node(node)
        return self.env[node]
