"""Compute once what depends on parameters alone."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.dialect.mutation import mutates
from fxquant.graph.attributes import read_buffer
from fxquant.graph.meta import inherit_meta, module_path
from fxquant.graph.rewrite import blame, edit

# Operators, by name, whose result is another one each time.
_RANDOM = {
    *("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli"),
    *("multinomial", "poisson", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"),
    *("feature_dropout", "feature_alpha_dropout", "gumbel_softmax", "rrelu"),
}


def fold_constants(gm: fx.GraphModule) -> PassResult:
    """
    Replace values computed from parameters and buffers alone by buffers.

    Before:  table: (169, H) -> table[index] -> view -> permute(2, 0, 1) -> add(scores, .)
    Becomes: add(scores, self.blocks.0.attn.permute)      # (H, N, N), computed once

    The value moves to a buffer, so later training of the parameter it came from has no effect on it.
    """
    return edit(gm, _fold)


def _fold(gm: fx.GraphModule) -> bool:
    constant = _constant_nodes(gm)
    # Only the last constant node of each chain becomes a buffer.
    last = [n for n in constant if n.op != "get_attr" and any(user not in constant for user in n.users)]
    values = _Evaluate(gm)
    folded = False
    for node in last:
        with blame("fold_constants", node):
            folded |= _replace(gm, node, values.of(node))
    return folded


def _constant_nodes(gm: fx.GraphModule) -> dict[fx.Node, None]:
    """Return, in order, the nodes whose value depends on parameters and buffers alone."""
    constant: dict[fx.Node, None] = {}
    for node in gm.graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "get_attr" or (_is_pure(node) and inputs and all(i in constant for i in inputs)):
            constant[node] = None
    return constant


def _replace(gm: fx.GraphModule, node: fx.Node, value: object) -> bool:
    if not isinstance(value, Tensor):
        return False
    path = module_path(node)
    with gm.graph.inserting_before(node):
        new = read_buffer(gm.graph, f"{path}.{node.name}" if path else node.name, value.contiguous())
    inherit_meta(new, node)
    node.replace_all_uses_with(new)
    return True


def _is_pure(node: fx.Node) -> bool:
    if node.op not in ("call_function", "call_method") or mutates(node):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name not in _RANDOM and node.target is not torch._assert


class _Evaluate(fx.Interpreter):
    """Run single nodes of a graph whose inputs are all constant."""

    @torch.no_grad()
    def of(self, node: fx.Node) -> object:
        """Return the value of `node`, computing what it reads first."""
        pending = [node]
        while pending:
            current = pending.pop()
            missing = [n for n in current.all_input_nodes if n not in self.env]
            if missing:
                pending += [current, *missing]
            else:
                self.env[current] = self.run_node(current)
        return self.env[node]
