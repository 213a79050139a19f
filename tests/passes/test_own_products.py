"""`own_products` names a product after the module whose weight it reads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.graph.meta import module_path
from fxquant.passes.own_products import own_products
from tests.support.check_pass import graph_of


class Attention(nn.Module):
    def __init__(self, other: nn.Linear) -> None:
        super().__init__()
        self.qkv, self.free = nn.Linear(4, 6), nn.Parameter(torch.randn(4, 6))
        self.other = [other]  # a module that is no part of this one

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(F.linear(x, self.qkv.weight, self.qkv.bias), self.free)
        return F.linear(x, self.other[0].weight)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.block = nn.Sequential(nn.Linear(4, 4), Attention(self.head))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.block(x)[..., None], self.head.weight[..., None, None])


def paths(model: nn.Module) -> list[str]:
    gm = own_products(graph_of(model)).graph_module
    return [module_path(n) for n in gm.graph.nodes if n.target in (F.linear, F.conv2d)]


def test_a_weight_of_a_submodule_names_it() -> None:
    assert paths(Model()) == ["block.0", "block.1.qkv", "block.1", "block.1", ""]


def test_a_second_run_changes_nothing() -> None:
    gm = graph_of(Model())
    assert own_products(gm).modified
    assert not own_products(gm).modified
