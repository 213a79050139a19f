"""Drop whole branches at random while a model is trained (stochastic depth)."""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.dataflow import PRODUCTS, ancestors
from fxquant.graph.meta import clear_record, inherit_meta, module_path
from fxquant.graph.rewrite import edit
from fxquant.ops.train_modules import DropPath

_PATH = "train_modules.drop_path"


@dataclass(frozen=True)
class AddDropPath:
    """
    Set the branches of transformer blocks to zero for some of the images, in training mode.

    Before:  y = x + proj                             # proj: computed from x by products
    Becomes: y = x + train_modules.drop_path_3(proj)

    A block is a module that adds two or more branches, attention and MLP, to what they were computed from. The rate grows from
    0 in the first block to `rate` in the last, by even steps (Huang et al. 2016). `end_training` takes it out again.
    """

    rate: float

    def __call__(self, gm: fx.GraphModule) -> PassResult:
        """Add the modules."""
        return edit(gm, self._add)

    def _add(self, gm: fx.GraphModule) -> bool:
        if any(n.op == "call_module" and str(n.target).startswith(_PATH) for n in gm.graph.nodes):
            return False
        branches = _branches(gm)
        counts = Counter(module_path(node) for node, _ in branches)
        blocks = [path for path, count in counts.items() if count > 1]  # in the order of the graph
        modified = False
        for index, (node, branch) in enumerate(branches):
            path = module_path(node)
            rate = self.rate * blocks.index(path) / max(len(blocks) - 1, 1) if path in blocks else 0.0
            if rate:
                self._drop(gm, node, branch, f"{_PATH}_{index}", rate)
                modified = True
        return modified

    @staticmethod
    def _drop(gm: fx.GraphModule, node: fx.Node, branch: fx.Node, name: str, rate: float) -> None:
        gm.add_submodule(name, DropPath(rate).train(gm.training))
        with gm.graph.inserting_before(node):
            call = gm.graph.call_module(name, (branch,))
        inherit_meta(call, branch)
        clear_record(call)
        node.replace_input_with(branch, call)


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
