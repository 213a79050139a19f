"""Where in a graph each kind of value is computed, found from the data flow."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import fx

from fxquant.dataflow import moves_values, origin
from fxquant.meta import Product, record_of
from fxquant.placement import Value

_ADD = (operator.add, torch.add)
_MUL = (operator.mul, torch.mul)
_MEAN = (torch.mean, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d)
_SIZES = ("size", "dim")
_ARITHMETIC = (operator.getitem, operator.mul, operator.pow, operator.truediv, math.sqrt)


def find_values(gm: fx.GraphModule) -> Iterator[tuple[fx.Node, Value]]:
    """
    Yield each value that a placement may quantise, in the order of the graph, once.

    The graph is one of the FLOAT stage, with its products annotated and attention opened where the config wants that.
    """
    seen: set[fx.Node] = set()
    for node in list(gm.graph.nodes):
        for place, value in _values_of(node):
            if place not in seen:
                seen.add(place)
                yield place, value


def _values_of(node: fx.Node) -> Iterator[tuple[fx.Node, Value]]:
    if node.op == "placeholder":
        if node is next(iter(node.graph.nodes)):
            yield node, Value.IMAGE
    elif node.target in _ADD:
        yield from _sum(node)
    elif node.target in (torch.cat, torch.concat):
        if any(_is_constant(part) for part in _parts(node)):
            yield node, Value.CONCAT
    elif node.target is F.layer_norm:
        yield _selection(node), Value.NORM
    elif node.target is F.gelu:
        yield node, Value.GELU
    elif node.target is F.softmax:
        yield node, Value.PROBABILITIES
    elif node.target in _MEAN or (node.op == "call_method" and node.target == "mean"):
        yield node, Value.POOLED
    else:
        yield from _product(node)


def _product(node: fx.Node) -> Iterator[tuple[fx.Node, Value]]:
    record = record_of(node)
    if record is None:
        return
    if record.product is Product.PATCH_EMBED:
        yield node, Value.PATCHES
    elif record.product is Product.HEAD:
        yield node, Value.LOGITS
    elif record.product is Product.QK:
        yield _scaled(node), Value.SCORES
    elif record.product in (Product.PV, Product.ATTENTION):
        yield node, Value.CONTEXT
    elif record.product is Product.LINEAR and not _is_read_by(node, F.gelu):
        yield node, Value.MERGED if _is_read_by(node, F.layer_norm) else Value.LINEAR


def _sum(node: fx.Node) -> Iterator[tuple[fx.Node, Value]]:
    operands = [a for a in node.args[:2] if isinstance(a, fx.Node)]
    constants = [a for a in operands if _is_constant(a)]
    if len(operands) < 2:
        return
    if any(_is_scores(a) for a in operands):
        if constants:
            yield constants[0], Value.SCORE_BIAS
            yield node, Value.BIASED_SCORES
    elif _reads_scores(node):
        return  # a mask of windows
    elif constants:
        yield constants[0], Value.POSITION
        yield node, Value.EMBEDDING
    else:
        yield node, Value.RESIDUAL


def _parts(cat: fx.Node) -> list[object]:
    parts = cat.args[0] if cat.args else cat.kwargs.get("tensors")
    return list(parts) if isinstance(parts, list | tuple) else []


def _is_constant(value: object) -> bool:
    source = origin(value)
    return source is not None and source.op == "get_attr"


def _readers(node: fx.Node) -> list[fx.Node]:
    """Return what reads the values of `node`, and not only its sizes."""
    return [u for u in node.users if u.target is not getattr and not (u.op == "call_method" and u.target in _SIZES)]


def _selection(norm: fx.Node) -> fx.Node:
    """Return what selects tokens of `norm` where nothing else reads it, else `norm` itself."""
    readers = _readers(norm)
    return readers[0] if len(readers) == 1 and readers[0].target is operator.getitem else norm


def _scaled(scores: fx.Node) -> fx.Node:
    """Return the product of `scores` and a number where nothing else reads them, else `scores`."""
    readers = _readers(scores)
    if len(readers) != 1 or readers[0].target not in _MUL:
        return scores
    return readers[0] if any(_is_number(a) for a in readers[0].args) else scores


def _is_number(value: object) -> bool:
    """Say whether `value` is a number, be it computed from the shape of some tensor."""
    if not isinstance(value, fx.Node):
        return isinstance(value, int | float)
    if value.target == "size" or value.target is getattr:
        return True
    return value.target in _ARITHMETIC and all(_is_number(a) for a in value.all_input_nodes)


def _is_read_by(node: fx.Node, target: object) -> bool:
    """Say whether `target` reads the values of `node`, moved or not."""
    return any(user.target is target or (moves_values(user) and _is_read_by(user, target)) for user in _readers(node))


def _is_scores(value: fx.Node) -> bool:
    """Say whether `value` is a product of queries and keys, scaled or not."""
    while value.target in _MUL and isinstance(value.args[0], fx.Node):
        value = value.args[0]
    record = record_of(value)
    return record is not None and record.product is Product.QK and value.target is torch.matmul


def _reads_scores(node: object) -> bool:
    """Say whether `node` adds to scores, moved, scaled or added to before."""
    while isinstance(node, fx.Node) and not _is_scores(node):
        if not (moves_values(node) or node.target in (*_ADD, *_MUL)):
            return False
        node = node.args[0]
    return isinstance(node, fx.Node)
