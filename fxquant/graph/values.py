"""Where in a graph each kind of value is computed, found from the data flow."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import fx

from fxquant.config.operands import Value
from fxquant.graph.activation_functions import activation_of, is_gated
from fxquant.graph.attributes import tensor_of
from fxquant.graph.dataflow import between, downstream, moves_values, origin
from fxquant.graph.meta import Product, record_of, value_of
from fxquant.graph.norms import norm_of
from fxquant.graph.positions import is_phase

_ADD = (operator.add, torch.add)
_SCALE = (operator.mul, torch.mul, operator.truediv, torch.div)
_SPLITS = (operator.getitem, torch.unbind, torch.chunk, torch.split, "unbind", "chunk", "split")
_MEAN = (torch.mean, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d)
_SIZES = ("size", "dim")
_ARITHMETIC = (
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.neg),
    *(operator.getitem, operator.pow, math.sqrt),
)


def find_values(gm: fx.GraphModule) -> Iterator[tuple[fx.Node, Value]]:
    """
    Yield each value that a placement may quantise, in the order of the graph, once.

    The graph is one of the FLOAT stage, with its products annotated and attention opened where the config wants that. The
    results of products that the config leaves float are not among them, nor is the image where that is every patch embedding,
    nor what is complex.
    """
    found = _Functions(gm.graph)
    seen: set[fx.Node] = set()
    for node in list(gm.graph.nodes):
        for place, value in () if node in found.inside else _values_of(node, found):
            if place not in seen and not is_complex(place):
                seen.add(place)
                yield place, value


def is_complex(value: object) -> bool:
    """Say whether a node is known to hold complex numbers, which have no codes."""
    constant = isinstance(value, fx.Node) and value.op == "get_attr"
    tensor = tensor_of(value) if constant else value_of(value)
    return tensor is not None and tensor.is_complex()


class _Functions:
    """
    Activation functions and norms of a graph, whatever operators they are made of.

    activations: the last operator of each. read: what the activation functions are computed from. norms: the last operator of
    each norm. inside: the operators in between, and sums that are phases, which are no values of the model.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.activations, self.norms = set[fx.Node](), set[fx.Node]()
        self.read, self.inside = set[fx.Node](), set[fx.Node]()
        for node in graph.nodes:
            activation = None if moves_values(node) else activation_of(node)
            if activation is not None:
                self.activations.add(node)
                self.read.update(a for a in (origin(activation.source),) if a is not None)
                self.inside |= between(node, activation.source)
                continue
            norm = None if moves_values(node) else norm_of(node)
            if norm is not None:
                self.norms.add(node)
                self.inside |= between(node, norm)
            elif node.target in _ADD and is_phase(node):
                self.inside.add(node)


def _values_of(node: fx.Node, functions: _Functions) -> Iterator[tuple[fx.Node, Value]]:
    if node.op == "placeholder":
        yield from _input(node)
    elif node in functions.activations:
        yield node, Value.GELU
    elif node in functions.norms:
        yield _selection(node), Value.NORM
    elif is_gated(node) and not moves_values(node):
        yield node, Value.GATED
    elif node.target in _ADD:
        yield from _sum(node)
    elif node.target in (torch.cat, torch.concat):
        if any(_is_constant(part) for part in _parts(node)):
            yield node, Value.CONCAT
    elif node.target is F.softmax:
        yield from _softmax(node)
    elif node.target in _MEAN or (node.op == "call_method" and node.target == "mean"):
        yield node, Value.POOLED
    else:
        yield from _product(node, functions)


def _input(node: fx.Node) -> Iterator[tuple[fx.Node, Value]]:
    if node is next(iter(node.graph.nodes)) and not _image_left_float(node.graph):
        yield node, Value.IMAGE


def _softmax(node: fx.Node) -> Iterator[tuple[fx.Node, Value]]:
    if _over_last_axis(node) and not _left_float(_scores_behind(node)):
        yield node, Value.PROBABILITIES


def _product(node: fx.Node, functions: _Functions) -> Iterator[tuple[fx.Node, Value]]:
    record = record_of(node)
    if record is None:
        return
    if record.product is Product.ATTENTION:  # closed, which is no reason to leave its result float
        yield node, Value.CONTEXT
    elif _left_float(node):
        return
    elif record.product is Product.PATCH_EMBED:
        yield node, Value.PATCHES
    elif record.product is Product.HEAD:
        yield node, Value.LOGITS
    elif record.product is Product.QK:
        yield _scaled(node), Value.SCORES
    elif record.product is Product.PV:
        yield node, Value.CONTEXT
    elif record.product is Product.LINEAR and node not in functions.read:
        yield node, Value.MERGED if _is_read_by(node, F.layer_norm, whole=True) else Value.LINEAR


def _sum(node: fx.Node) -> Iterator[tuple[fx.Node, Value]]:
    operands = [a for a in node.args[:2] if isinstance(a, fx.Node)]
    constants = [a for a in operands if _is_constant(a)]
    if len(operands) < 2 or all(_is_number(a) for a in operands):
        return
    if any(_is_scores(a) for a in operands):
        if constants and not _left_float(_scores_behind(node)):
            yield constants[0], Value.SCORE_BIAS
            yield node, Value.BIASED_SCORES
    elif _enters_attention(node):
        return  # a mask of windows, or queries and keys that are turned by their position
    elif constants:
        yield constants[0], Value.POSITION
        yield node, Value.EMBEDDING
    else:
        yield node, Value.RESIDUAL


def _left_float(product: fx.Node | None) -> bool:
    """Say whether the config leaves a product float."""
    record = record_of(product) if product is not None else None
    return record is not None and record.reason is not None and not record.requested


def _image_left_float(graph: fx.Graph) -> bool:
    records = [record_of(n) for n in graph.nodes]
    products = [
        n for n, r in zip(graph.nodes, records, strict=True) if r is not None and r.product is Product.PATCH_EMBED
    ]
    return bool(products) and all(_left_float(n) for n in products)


def _over_last_axis(softmax: fx.Node) -> bool:
    """Say whether the probabilities of one query sum to 1, as in attention."""
    axis, known = softmax.args[1] if len(softmax.args) > 1 else None, value_of(softmax)
    return bool(axis == -1 or (known is not None and axis == known.dim() - 1))


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
    if len(readers) != 1 or readers[0].target not in _SCALE:
        return scores
    return readers[0] if any(_is_number(a) for a in readers[0].args) else scores


def _is_number(value: object) -> bool:
    """Say whether `value` is a number, be it computed from the shape of some tensor."""
    if not isinstance(value, fx.Node):
        return isinstance(value, int | float)
    if value.target == "size" or value.target is getattr:
        return True
    return value.target in _ARITHMETIC and all(_is_number(a) for a in value.all_input_nodes)


def _is_read_by(node: fx.Node, target: object, whole: bool = False) -> bool:
    """Say whether `target` reads the values of `node`, moved or not; `whole`: all of them, not a part."""
    return any(
        user.target is target
        or (moves_values(user) and not (whole and user.target in _SPLITS) and _is_read_by(user, target, whole))
        for user in _readers(node)
    )


def _is_scores(value: fx.Node) -> bool:
    """Say whether `value` is a product of queries and keys, scaled or not."""
    while value.target in _SCALE and isinstance(value.args[0], fx.Node):
        value = value.args[0]
    return _is_product(value, Product.QK)


def _scores_behind(node: fx.Node) -> fx.Node | None:
    """Return the product of queries and keys that `node` computes from, through sums, scaling and moves."""
    value: object = node.args[0] if node.target is F.softmax else node
    stack, seen = [value], set[object]()
    while stack:
        value = stack.pop()
        if not isinstance(value, fx.Node) or value in seen:
            continue
        seen.add(value)
        if _is_product(value, Product.QK):
            return value
        if moves_values(value) or value.target in (*_ADD, *_SCALE):
            stack.extend(value.args)
    return None


def _enters_attention(node: fx.Node) -> bool:
    """Say whether a sum becomes scores, a mask, or queries and keys, before any other product or norm."""
    fused = (F.softmax, F.scaled_dot_product_attention)
    return any(user.target in fused or _is_product(user, Product.QK) for user in downstream(node))


def _is_product(node: fx.Node, product: Product) -> bool:
    record = record_of(node)
    return record is not None and record.product is product
