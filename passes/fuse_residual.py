"""Add the residual where the int8 product is finished."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.calls import arguments_of, call
from fxquant.graph.match import Call, Match, Var
from fxquant.graph.meta import Record, record_of, set_record, value_of
from fxquant.graph.rewrite import rewrite
from fxquant.graph.shapes import Sizes, sizes_of
from fxquant.ops import int8_linear, int8_linear_add, int8_linear_twin, int8_linear_twin_add

_LINEAR = Call((int8_linear, int8_linear_twin), ..., name="linear")
_ADD = (operator.add, torch.add)
_FUSED = (int8_linear_add, int8_linear_twin_add)


def fuse_residual(gm: fx.GraphModule) -> PassResult:
    """
    Put the addition of the residual into the int8 product before it.

    Before:  y = x + int8_linear(q, w_int8, s, b, None, None, bfloat16, False)
    Becomes: y = int8_linear_add(q, w_int8, s, b, x, bfloat16, False)

    q: (B, N, K) int8, x and y: (B, N, O). A twin-uniform q gives int8_linear_twin_add. What is broadcast or has another dtype
    is no residual; an affine weight and a product with other readers stay as they are.
    """
    known = functools.cache(lambda: sizes_of(gm) or Sizes())
    rules = tuple((pattern, functools.partial(_fuse, known)) for pattern in PATTERNS)
    return rewrite(gm, rules, "fuse_residual")


def _fuse(known: Callable[[], Sizes], graph: fx.Graph, m: Match) -> fx.Node | None:
    linear, residual = m["linear"], m["residual"]
    given = arguments_of(linear)
    # Which the operator with a residual does not have.
    zero_points = [given.pop(name, None) for name in ("weight_zero_point", "input_zero_point")]
    if len(linear.users) > 1 or not _alike(linear, residual, known) or zero_points[0] is not None:
        return None
    target = int8_linear_twin_add if linear.target is int8_linear_twin else int8_linear_add
    new = call(graph, target, given | {"residual": residual})
    record: Record | None = record_of(linear)
    if record is not None:
        set_record(new, record)
    return new


def _alike(linear: fx.Node, residual: object, known: Callable[[], Sizes]) -> bool:
    if not isinstance(residual, fx.Node) or residual.op == "get_attr":
        return False  # a constant is as large as the batch only where that is 1
    one, other = value_of(linear), value_of(residual)
    if one is None or other is None or one.dtype is not other.dtype:
        return False
    if one.shape != other.shape or one.shape[0] > 1:
        return one.shape == other.shape
    # One image cannot tell whether the residual has as many as the result for any batch. What was fused has.
    shapes = known().shapes
    return residual.target in _FUSED or shapes.get(linear, ()) == shapes.get(residual)


PATTERNS = (Call(_ADD, Var("residual"), _LINEAR), Call(_ADD, _LINEAR, Var("residual")))
