"""Turn products with a weight matrix into linear layers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import read_buffer, reads_tensor, tensor_of
from fxquant.graph.match import Call, Match, Var
from fxquant.graph.rewrite import Rule, rewrite


def linearize_matmul(gm: fx.GraphModule) -> PassResult:
    """
    Spell a product with a constant matrix as the linear layer it is, so that its weight is quantised as one.

    Before:  matmul(x, self.proj)                      # x: (..., K), proj: (K, O)
    Becomes: linear(x, self.proj_transposed)           # (O, K), a buffer

    Products of two activations, and of an activation with a constant that is no matrix, stay.
    """
    return rewrite(gm, RULES, "linearize_matmul")


def _is_matrix(value: Any) -> bool:
    return reads_tensor(value) and tensor_of(value).dim() == 2


_PRODUCT = Call(torch.matmul, Var("x", where=lambda v: not _is_matrix(v)), Var("weight", where=_is_matrix))


def _linearize(graph: fx.Graph, m: Match) -> fx.Node | None:
    weight: fx.Node = m["weight"]
    transposed = read_buffer(graph, f"{weight.target}_transposed", tensor_of(weight).t().contiguous())
    return graph.call_function(F.linear, (m["x"], transposed))


RULES: tuple[Rule, ...] = ((_PRODUCT, _linearize),)
