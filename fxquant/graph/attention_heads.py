"""The linear layers around products of attention, and which of their rows and columns belong to which head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.graph.channels import ChannelReader, follow, has_constant_weight, numbered
from fxquant.graph.meta import known_value, value_of

_PRODUCTS = (F.scaled_dot_product_attention, torch.matmul)


@dataclass(frozen=True, eq=False)
class HeadRows:
    """The output channels of a linear layer that each head of a product reads: rows of its weight, ``(H, D)`` from 0."""

    layer: fx.Node
    rows: Tensor


@dataclass(frozen=True, eq=False)
class HeadPair:
    """
    Two sides of a product in which the D channels of each head are summed over, so that one rotation of both cancels.

    product: the attention, for errors. sides: the layers whose rows are summed over; for values the rows of one layer, and
    `columns` of the linear layer behind attention, ``(layer, (H, D))``.
    """

    product: fx.Node
    sides: tuple[HeadRows, ...]
    columns: tuple[fx.Node, Tensor] | None = None

    @property
    def width(self) -> int:
        """Channels of a head, D."""
        return int(self.sides[0].rows.shape[-1])


def head_pairs(graph: fx.Graph) -> Iterator[HeadPair]:
    """
    Yield queries with keys, and values with what reads attention, wherever nothing but moves and numbers stand in between.

    HeadRows that anything else reads too are left out, and so are products whose operands are normed or turned by position.
    """
    operands: dict[tuple[fx.Node, int], tuple[fx.Node, ChannelReader]] = {}
    for layer in graph.nodes:
        if layer.target is F.linear and has_constant_weight(layer) and value_of(layer) is not None:
            readers = list(follow(layer, numbered(layer), scaled=True))
            for reader in _undivided(readers):
                operands[reader.node, reader.node.args.index(reader.value)] = (layer, reader)
    for product in graph.nodes:
        if product.target in _PRODUCTS:
            yield from _pairs_of(product, operands)


def _undivided(readers: list[ChannelReader]) -> list[ChannelReader]:
    """Return the readers that read a product's operand, each of channels that no other one reads."""
    seen = torch.cat([torch.unique(r.channels) for r in readers]) if readers else torch.zeros(0)
    values, counts = seen.unique(return_counts=True)
    shared = values[counts > 1]
    return [
        r
        for r in readers
        if r.node.target in _PRODUCTS
        and r.node.args[:3].count(r.value) == 1
        and not torch.isin(r.channels, shared).any()
    ]


def _pairs_of(
    product: fx.Node, operands: dict[tuple[fx.Node, int], tuple[fx.Node, ChannelReader]]
) -> Iterator[HeadPair]:
    found = {position: operands[product, position] for position in range(3) if (product, position) in operands}
    fused = product.target is F.scaled_dot_product_attention
    if 0 in found and 1 in found:
        (query, of_query), (key, of_key) = found[0], found[1]
        sides = [(query, _heads(of_query.channels)), (key, _heads(of_key.channels if fused else of_key.channels.mT))]
        rows = tuple(HeadRows(layer, heads) for layer, heads in sides if heads is not None)
        if len(rows) == 2:
            yield HeadPair(product, rows)
    position = 2 if fused else 1
    if position in found:
        layer, reader = found[position]
        yield from _values(product, layer, reader.channels)


def _values(product: fx.Node, layer: fx.Node, channels: Tensor) -> Iterator[HeadPair]:
    """Yield the values that `layer` gives with the linear layer that reads what attention makes of them."""
    heads, shape = _heads(channels), known_value(product).shape
    if heads is None or channels.shape[:-2] != shape[:-2]:
        return
    readers = list(follow(product, channels[..., :1, :].expand(shape)))
    if len(readers) != 1 or readers[0].node.target is not F.linear or readers[0].node.args[0] is not readers[0].value:
        return
    behind, read = readers[0].node, torch.unique(readers[0].channels.flatten(0, -2), dim=0)
    if (
        len(read) != 1
        or not has_constant_weight(behind)
        or read.sort().values.ne(heads.flatten().sort().values + 1).any()
    ):
        return
    places = read[0].argsort()[torch.argsort(heads.flatten().argsort())].reshape(heads.shape)
    yield HeadPair(product, (HeadRows(layer, heads),), (behind, places))


def _heads(channels: Tensor) -> Tensor | None:
    """Return the rows of each head ``(H, D)``, from 0; None unless all tokens of `channels` ``(.., N, D)`` have the same."""
    heads = torch.unique(channels.flatten(0, -2), dim=0).long()
    distinct = torch.unique(heads)
    return heads - 1 if len(distinct) == heads.numel() and int(distinct[0]) > 0 else None
