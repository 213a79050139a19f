"""The guards of a converted graph by operators of torch alone, for runtimes that have no others."""

from __future__ import annotations

from torch import fx

from fxquant.graph.calls import arguments_of
from fxquant.graph.match import Call, Match
from fxquant.graph.rewrite import Rule, rewrite
from fxquant.ops import check_values


def plain_guards(gm: fx.GraphModule) -> None:
    """
    Let images that are not finite give NaN by arithmetic, and nothing be said of ranges.

    Before:  invalid = check_values(x, -2.1, 2.6, "x", False, True)
    Becomes: invalid = (x.float() * 0).flatten(1).sum(1)   # (B,): 0, or NaN for an image that is not finite
    """
    rewrite(gm, (_RULE,), "plain_guards")


def _plain(graph: fx.Graph, m: Match) -> fx.Node:
    given = arguments_of(m["root"])
    zeros = graph.call_method("mul", (graph.call_method("float", (given["x"],)), 0))
    if not given["batched"]:
        return graph.call_method("sum", (zeros,))
    return graph.call_method("sum", (graph.call_method("flatten", (graph.call_method("unsqueeze", (zeros, -1)), 1)), 1))


_RULE: Rule = (Call(check_values, ...), _plain)
