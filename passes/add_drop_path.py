"""Drop whole branches at random while a model is trained (stochastic depth)."""

from __future__ import annotations

import operator
from dataclasses import dataclass

from timm.layers import DropPath
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.dataflow import PRODUCTS, ancestors
from fxquant.rewrite import edit, inherit_meta

_PATH = "train_modules.drop_path"


@dataclass(frozen=True)
class AddDropPath:
    """
    Let each branch that is added to the value it was computed from drop whole images in training mode.

    Before:  y = x + proj                             # proj: computed from x by products
    Becomes: y = x + train_modules.drop_path_3(proj)

    The rate grows from 0 at the first sum to `rate` at the last, by even steps (Huang et al. 2016). `end_training` takes it
    out again.
    """

    rate: float

    def __call__(self, gm: fx.GraphModule) -> PassResult:
        """Add the modules."""
        return edit(gm, self._add)

    def _add(self, gm: fx.GraphModule) -> bool:
        known = any(n.op == "call_module" and str(n.target).startswith(_PATH) for n in gm.graph.nodes)
        if known or not self.rate:
            return False
        branches = _branches(gm)
        for index, (node, branch) in enumerate(branches):
            rate = self.rate * index / max(len(branches) - 1, 1)
            if not rate:
                continue
            gm.add_submodule(f"{_PATH}_{index}", DropPath(rate).train(gm.training))
            with gm.graph.inserting_before(node):
                call = gm.graph.call_module(f"{_PATH}_{index}", (branch,))
            inherit_meta(call, branch)
            call.meta.pop("fxquant", None)
            node.replace_input_with(branch, call)
        return len(branches) > 1


def _branches(gm: fx.GraphModule) -> list[tuple[fx.Node, fx.Node]]:
    """Return each sum of a value and a branch computed from it, with the branch."""
    found = []
    for node in gm.graph.nodes:
        if node.target is operator.add and all(isinstance(a, fx.Node) for a in node.args):
            branch = _branch(*node.args)
            if branch is not None:
                found.append((node, branch))
    return found


def _branch(left: fx.Node, right: fx.Node) -> fx.Node | None:
    """Return the one of two values that products compute from what the other one is made of as well."""
    behind_left, behind_right = ancestors(left), ancestors(right)
    if all(n.op == "get_attr" for n in behind_left & behind_right):
        return None
    by_left, by_right = (_has_product(own) for own in (behind_left - behind_right, behind_right - behind_left))
    if by_left == by_right:
        return None
    return left if by_left else right


def _has_product(nodes: set[fx.Node]) -> bool:
    return any(n.target in PRODUCTS for n in nodes)
