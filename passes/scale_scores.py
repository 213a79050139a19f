"""Scale the scores of attention, not the queries."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.match import Call, Match, Var
from fxquant.graph.meta import Product, clear_record, copy_value, record_of, set_record
from fxquant.graph.rewrite import Rule, rewrite


def scale_scores(gm: fx.GraphModule) -> PassResult:
    """
    Multiply a quantised product of queries and keys by a number after it, as `decompose_attention` does.

    Before:  scores = matmul(q * 0.125, k)
    Becomes: scores = matmul(q, k) * 0.125

    q: (B, H, N, D), k: (B, H, D, N). A learned step is then that of the queries themselves, whether the model scales queries or
    scores.
    """
    return rewrite(gm, RULES, "scale_scores")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_SCALED = Call(torch.matmul, Call(operator.mul, Var("query"), Var("number", where=_is_number)), Var("key"))


def _scale(graph: fx.Graph, m: Match) -> fx.Node | None:
    record = record_of(m["root"])
    if record is None or record.product is not Product.QK or record.reason is not None:
        return None
    scores = graph.call_function(torch.matmul, (m["query"], m["key"]))
    set_record(scores, record)
    copy_value(scores, m["root"])
    scaled = graph.call_function(operator.mul, (scores, m["number"]))
    clear_record(scaled)
    return scaled


RULES: tuple[Rule, ...] = ((_SCALED, _scale),)
