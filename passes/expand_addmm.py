"""Turn a sum with a matrix product, which is one operator in torch, into the product and the sum."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.match import Call, Match, Var
from fxquant.graph.rewrite import Rule, rewrite


def expand_addmm(gm: fx.GraphModule) -> PassResult:
    """
    Spell addmm and baddbmm by matmul, so that the product is seen and quantised as such.

    Before:  addmm(bias, x, w)                baddbmm(mask, q, k, beta=0.5, alpha=2)
    Becomes: add(matmul(x, w), bias)          add(mul(matmul(q, k), 2), mul(mask, 0.5))

    With ``beta=0`` nothing is added, whatever the first argument holds.
    """
    return rewrite(gm, RULES, "expand_addmm")


_SUM = Call((torch.addmm, torch.baddbmm, "addmm", "baddbmm"), Var("added"), Var("left"), Var("right"), ...)


def _expand(graph: fx.Graph, m: Match) -> fx.Node | None:
    settings = m["root"].kwargs
    if len(m["root"].args) > 3 or not settings.keys() <= {"alpha", "beta"}:
        return None
    product = graph.call_function(torch.matmul, (m["left"], m["right"]))
    result = _scaled(graph, product, settings.get("alpha", 1))
    beta = settings.get("beta", 1)
    if beta == 0:
        return result
    return graph.call_function(operator.add, (result, _scaled(graph, m["added"], beta)))


def _scaled(graph: fx.Graph, value: fx.Node, factor: Any) -> fx.Node:
    return value if factor == 1 else graph.call_function(operator.mul, (value, factor))


RULES: tuple[Rule, ...] = ((_SUM, _expand),)
