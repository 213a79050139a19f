"""The residual streams of a graph: what is added up from block to block, who writes into it and who reads it."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.errors import UnsupportedGraphError
from fxquant.graph.attributes import reads_tensor
from fxquant.graph.calls import arguments_of
from fxquant.graph.channels import (
    has_constant_weight,
    in_place,
    is_metadata,
    is_norm,
    linear_readers,
    moved_channels,
    name_of,
    numbered,
)
from fxquant.graph.dataflow import moves_values

_ADD = (operator.add, torch.add)
_CAT = (torch.cat, torch.concat)
_LAYERS = (F.linear, F.conv2d)


@dataclass(eq=False)
class Stream:
    """
    Values of one width C that are sums of each other, ``(..., C)``, the same channels throughout.

    writers: what gives them, linear layers, convolutions and tensors of the model. norms and layers: the norms and the linear
    layers that read them. obstacle: what else writes or reads them, or where channels change their place; None where nothing.
    """

    width: int
    nodes: set[fx.Node] = field(default_factory=set)
    writers: list[fx.Node] = field(default_factory=list)
    norms: list[fx.Node] = field(default_factory=list)
    layers: list[fx.Node] = field(default_factory=list)
    obstacle: str | None = None


def residual_streams(graph: fx.Graph) -> list[Stream]:
    """Return the streams in which results are added up, by their first norm; `ConfigError` where shapes are unknown."""
    streams: list[Stream] = []
    for norm in graph.nodes:
        if (
            is_norm(norm)
            and len(arguments_of(norm)["normalized_shape"]) == 1
            and not any(norm in s.norms for s in streams)
        ):
            stream = _flooded(norm)
            if any(map(_is_residual, stream.nodes)):
                streams.append(stream)
    for stream in streams:
        stream.obstacle = stream.obstacle or _misplaced(graph, stream)
    return streams


def _flooded(norm: fx.Node) -> Stream:
    """Return the stream that `norm` reads."""
    given = arguments_of(norm)
    stream, pending = Stream(given["normalized_shape"][0]), [given["input"]]
    while pending:
        node = pending.pop()
        if node in stream.nodes:
            continue
        stream.nodes.add(node)
        pending += _behind(node, stream)
        pending += [user for user in _users(node) if _is_on_stream(user, node, stream)]
    order = {node: index for index, node in enumerate(norm.graph.nodes)}
    for found in (stream.writers, stream.norms, stream.layers):
        found.sort(key=order.__getitem__)
    return stream


def _behind(node: fx.Node, stream: Stream) -> list[fx.Node]:
    """Return the values of the stream that `node` is made of, none where it writes into it."""
    if node.target in _ADD and len(node.all_input_nodes) == len(node.args) and not node.kwargs:
        return node.all_input_nodes
    if node.target in _CAT:
        return node.all_input_nodes
    if _moves(node):
        return node.all_input_nodes[:1]
    if not reads_tensor(node) and not (node.target in _LAYERS and has_constant_weight(node)):
        _block(stream, f"{name_of(node)} writes into it")
    stream.writers.append(node)
    return []


def _is_on_stream(user: fx.Node, node: fx.Node, stream: Stream) -> bool:
    """Say whether what reads `node` is the stream itself; note it where it is a reader."""
    if user.target in (*_ADD, *_CAT) or _moves(user):
        return True
    read = [i for i, a in enumerate(user.args) if a is node]
    if is_norm(user) and read == [0]:
        stream.norms += [user] * (user not in stream.norms)
    elif user.target is F.linear and read == [0] and has_constant_weight(user):
        stream.layers += [user] * (user not in stream.layers)
    else:
        _block(stream, f"{name_of(user)} reads it")
    return False


def _users(node: fx.Node) -> list[fx.Node]:
    """Return what reads the values of `node`; of a tensor of the model nobody, as other readers keep the old one."""
    return [] if reads_tensor(node) else [user for user in node.users if not is_metadata(user)]


def _moves(node: fx.Node) -> bool:
    return moves_values(node) or node.target in (torch.mean, "mean")


def _block(stream: Stream, obstacle: str) -> None:
    stream.obstacle = stream.obstacle or obstacle


def _is_residual(node: fx.Node) -> bool:
    """Say whether `node` adds two computed values."""
    return node.target in _ADD and not any(reads_tensor(a) for a in node.args) and len(node.all_input_nodes) == 2


def _misplaced(graph: fx.Graph, stream: Stream) -> str | None:
    """Return where the channels of a stream are not the last axis in order, None where they always are."""
    known: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node not in stream.nodes:
            continue
        if node in stream.writers:
            known[node] = numbered(node, 1 if node.target is F.conv2d else -1)
        elif node.target in _CAT:
            given = dict(zip(("tensors", "dim"), node.args, strict=False)) | node.kwargs
            known[node] = torch.cat([known[part] for part in given["tensors"]], given.get("dim", 0))
        elif node.target in _ADD:
            known[node] = _sum(*(known[part] for part in node.all_input_nodes))
        else:
            known[node] = moved_channels(node, known)
        if known[node] is None:
            return f"{name_of(node)} changes the places of its channels"
    for reader in (*stream.norms, *stream.layers):
        if not in_place(known[reader.all_input_nodes[0]], stream.width):
            return f"{name_of(reader)} reads its channels in other places, as where patches are merged"
    return None


def _sum(one: Tensor, other: Tensor) -> Tensor | None:
    """Return the channels of a sum, None where it adds different ones."""
    try:
        one, other = torch.broadcast_tensors(one, other)
    except RuntimeError:
        return None
    return one if torch.equal(one, other) else None


def exact_streams(graph: fx.Graph, fold: str) -> list[Stream]:
    """
    Return the streams of a graph whose writers and readers can be folded into.

    Raises `UnsupportedGraphError` naming the first obstacle, as a norm with a scale or shift is; or where there is no stream.
    """
    streams = residual_streams(graph)
    if not streams:
        raise UnsupportedGraphError(
            f"folds: {fold} expected a residual stream that norms read, found none; leave it out"
        )
    for stream in streams:
        obstacle = stream.obstacle or next(filter(None, map(_left_in_norm, stream.norms)), None)
        if obstacle is not None:
            raise UnsupportedGraphError(
                f"folds: {fold} is not exact in this model, leave it out: of the residual stream of width {stream.width}, "
                f"{obstacle}"
            )
    return streams


def _left_in_norm(norm: fx.Node) -> str | None:
    readers = linear_readers(norm)
    if isinstance(readers, str):
        return f"{name_of(norm)} is a reader, and {readers}"
    given = arguments_of(norm)
    plain = given["weight"] is None and given.get("bias") is None
    return None if plain else f"{name_of(norm)} has a scale or shift"
