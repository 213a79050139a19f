"""The blocks of a prepared graph, found from the data flow."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from fxquant.graph.attributes import called_module
from fxquant.graph.dataflow import PRODUCTS, after, ancestors, origin, returned
from fxquant.graph.meta import Product, record_of
from fxquant.observers.base import Observer

_ADD = (operator.add, torch.add)
_ATTENTION = (Product.PV, Product.ATTENTION)


@dataclass(frozen=True, eq=False)
class Block:
    """
    A part of a graph that is reconstructed at once.

    source: what it computes its results from, beside the inputs of the model; None for the first block. targets: its results,
    one unless it is the last block. label: the names of its first and last product.
    """

    source: fx.Node | None
    targets: tuple[fx.Node, ...]
    label: str


def find_blocks(gm: fx.GraphModule) -> list[Block]:
    """
    Return the blocks of a prepared graph in the order in which they run.

    A block of a transformer begins at the tokens that its attention is added to, and ends where the next one begins. What
    comes before the first and after the last is a block each. Without attention every sum with what came before ends a block,
    and without sums every product does. Whatever a block ends with, nothing else that was computed by a product is read later.
    """
    nodes = list(gm.graph.nodes)
    outputs = tuple(dict.fromkeys(value for _, value in returned(gm.graph)))
    ends = [n for n in _bottlenecks(nodes) if n not in outputs]
    sums = set().union(*map(_ends_of_sum, nodes))
    ends = [n for n in ends if n in sums] or [n for n in ends if n.target in PRODUCTS]
    parts = _parts(nodes, ends)
    attention = [any(map(_is_attention, part)) for part in parts]
    blocks, source, products = list[Block](), None, list[fx.Node]()
    for end, part, next_attends in zip(ends, parts, attention[1:], strict=False):
        products += part
        closes = end is ends[-1] or next_attends or not any(attention)
        if closes and any(map(_is_quantized, products)):
            blocks.append(Block(source, (end,), _label(products)))
            source, products = end, []
    return [*blocks, Block(source, outputs, _label([*products, *parts[-1]]))]


def features_of(gm: fx.GraphModule) -> tuple[fx.Node, ...]:
    """Return the features of a model: what its heads read, or its results where it has no head."""
    heads = [n for n in gm.graph.nodes if (r := record_of(n)) is not None and r.product is Product.HEAD]
    read = [_unobserved(head.all_input_nodes[0]) for head in heads]
    return tuple(dict.fromkeys(read or [value for _, value in returned(gm.graph)]))


def _bottlenecks(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Return the nodes that all that products computed before them, other than sizes, passes through."""
    products = [n for n in nodes if n.target in PRODUCTS]
    computed = after(products).union(products)
    position = {node: i for i, node in enumerate(nodes)}
    found, reach = list[fx.Node](), -1  # reach: where the last reader of what came before is
    for node in nodes:
        if node in computed:
            if reach <= position[node]:
                found.append(node)
            reach = max(reach, *(position[u] for u in node.users if u in computed), -1)
    return found


def _parts(nodes: Sequence[fx.Node], ends: Sequence[fx.Node]) -> list[list[fx.Node]]:
    """Return the products up to each of `ends`, and those behind the last."""
    parts: list[list[fx.Node]] = [[]]
    for node in nodes:
        if node.target in PRODUCTS:
            parts[-1].append(node)
        if node in ends:
            parts.append([])
    return parts


def _ends_of_sum(node: fx.Node) -> set[fx.Node]:
    """Return a residual sum and what it adds to, from which its other operand is computed; nothing for other nodes."""
    operands = [_unobserved(a) for a in node.args[:2] if isinstance(a, fx.Node)]
    if node.target not in _ADD or len(operands) < 2:
        return set()
    for skipped, branch in (operands, operands[::-1]):
        if skipped in ancestors(branch):
            return {node, skipped}
    return set()


def _unobserved(value: fx.Node) -> fx.Node:
    """Return what the observers of `value` observe."""
    while value.op == "call_module":
        value = value.all_input_nodes[0]
    return value


def _is_attention(node: fx.Node) -> bool:
    record = record_of(node)
    return record is not None and record.product in _ATTENTION


def _is_quantized(product: fx.Node) -> bool:
    return any(isinstance(called_module(origin(a)), Observer) for a in product.args[:2])


def _label(products: Sequence[fx.Node]) -> str:
    labels = [r.label for n in products if (r := record_of(n)) is not None]
    return " to ".join(dict.fromkeys([labels[0], labels[-1]])) if labels else "no product"
