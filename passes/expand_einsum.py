"""Turn einsum into the matrix product it stands for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.match import Call, Match, Var
from fxquant.graph.rewrite import Rule, rewrite


class _Product(NamedTuple):
    """An einsum as ``matmul(left.permute(left_axes), right.permute(right_axes)).permute(result_axes)``."""

    swapped: bool
    left_axes: tuple[int, ...]
    right_axes: tuple[int, ...]
    result_axes: tuple[int, ...]


def expand_einsum(gm: fx.GraphModule) -> PassResult:
    """
    Spell an einsum of two operands as matmul where it is one product, so that it is seen and quantised as such.

    Before:  einsum("bhnd,bhmd->bhnm", q, k)                einsum("bnk,ok->bno", x, w)
    Becomes: matmul(q, k.permute(0, 1, 3, 2))               matmul(x, w.permute(1, 0))

    One axis is summed over, and the operands share either all axes but their own one, or none. Others stay einsum.
    """
    return rewrite(gm, RULES, "expand_einsum")


_EINSUM = Call(torch.einsum, Var("equation", where=lambda v: isinstance(v, str)), Var("left"), Var("right"))


def _expand(graph: fx.Graph, m: Match) -> fx.Node | None:
    product = _product(m["equation"].replace(" ", ""))
    if product is None:
        return None
    left, right = (m["right"], m["left"]) if product.swapped else (m["left"], m["right"])
    result = graph.call_function(
        torch.matmul, (_permuted(graph, left, product.left_axes), _permuted(graph, right, product.right_axes))
    )
    return _permuted(graph, result, product.result_axes)


def _product(equation: str) -> _Product | None:
    operands, arrow, out = equation.partition("->")
    left, comma, right = operands.partition(",")
    terms = (left, right, out)
    if not arrow or not comma or not all(t.isalpha() and len(set(t)) == len(t) for t in terms):
        return None
    # With no axis in common to keep, the second operand is the matrix.
    swapped = len(right) != 2 and len(left) == 2 and not set(left) & set(right) & set(out)
    if swapped:
        left, right = right, left
    kept = [c for c in out if c in left and c in right]
    summed = [c for c in left if c in right and c not in out]
    rows = [c for c in left if c not in right]
    columns = [c for c in right if c not in left]
    result = [*kept, *rows, *columns]
    if len(summed) != 1 or len(columns) != 1 or (kept and len(rows) != 1) or sorted(result) != sorted(out):
        return None
    return _Product(
        swapped,
        tuple(left.index(c) for c in (*kept, *rows, *summed)),
        tuple(right.index(c) for c in (*kept, *summed, *columns)),
        tuple(result.index(c) for c in out),
    )


def _permuted(graph: fx.Graph, value: fx.Node, axes: tuple[int, ...]) -> fx.Node:
    return value if axes == tuple(range(len(axes))) else graph.call_method("permute", (value, *axes))


RULES: tuple[Rule, ...] = ((_EINSUM, _expand),)
