"""Count a product whose weight is that of a submodule as the product of that submodule."""

from __future__ import annotations

import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.meta import module_path, module_stack, set_module_stack
from fxquant.graph.rewrite import edit


def own_products(gm: fx.GraphModule) -> PassResult:
    """
    Give a linear layer or convolution the module whose weight it reads, where a module around that one computes it.

    Before:  linear(x, self.attn.qkv.weight)      # computed by the forward of attn
    Becomes: the same, as a product of attn.qkv

    So it has the name that people know it by, in reports and in overrides of a config. Only modules' stacks change.
    """

    def change(module: fx.GraphModule) -> bool:
        owned = [_own(node) for node in module.graph.nodes if node.target in (F.linear, F.conv2d)]
        return any(owned)

    return edit(gm, change)


def _own(node: fx.Node) -> bool:
    weight = node.args[1]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return False
    owner, around = str(weight.target).rpartition(".")[0], module_path(node)
    if not owner or owner == around or not owner.startswith(f"{around}." if around else ""):
        return False
    kind = "torch.nn.Linear" if node.target is F.linear else "torch.nn.Conv2d"
    set_module_stack(node, module_stack(node) | {owner: (owner, kind)})
    return True
