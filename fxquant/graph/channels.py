"""
Which channel each entry of a value belongs to, wherever operators move it.

Moving operators are run on the numbers of the channels, which proves for any spelling what becomes of them. So shapes have to
be known. Channels count from 1; what is padded belongs to none and is 0.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx.node import map_arg

from fxquant.errors import ConfigError
from fxquant.graph.attributes import reads_tensor, tensor_of
from fxquant.graph.calls import arguments_of
from fxquant.graph.dataflow import is_size, moves_values
from fxquant.graph.meta import any_value_of, module_path, value_of
from fxquant.graph.norms import FUNCTIONS
from fxquant.graph.shapes import varying_axes

_CASTS = ("to", "float", "type_as", "contiguous", "clone")
_FIXED: WeakKeyDictionary[fx.Graph, bool] = WeakKeyDictionary()  # it takes a run on shapes to know
_SCALES = (operator.mul, torch.mul, operator.truediv, torch.div)


@dataclass(frozen=True)
class ChannelReader:
    """
    A node that computes with a value that was followed.

    value: which of its arguments. channels: to which channel each of its entries belongs, of the shape of `value`.
    """

    node: fx.Node
    value: fx.Node
    channels: Tensor


def numbered(node: fx.Node, axis: int = -1) -> Tensor:
    """Return the channel of each entry of the result of `node`, counted along `axis`; `ConfigError` for an unknown shape."""
    shape = tensor_of(node).shape if reads_tensor(node) else None
    if shape is None:
        value = value_of(node)
        if value is None:
            raise ConfigError(
                f"folds need to know the shapes of all values, as of {node.name!r}: give example_inputs as well"
            )
        shape = value.shape
    trailing = len(shape) - 1 - axis % len(shape)
    return torch.arange(1.0, shape[axis] + 1).reshape(-1, *[1] * trailing).expand(shape)


def in_place(channels: Tensor, width: int) -> bool:
    """Say whether the last axis of `channels` holds all of `width` channels in order."""
    return channels.shape[-1] == width and bool((channels == torch.arange(1.0, width + 1)).all())


def follow(source: fx.Node, channels: Tensor, scaled: bool = False) -> Iterator[ChannelReader]:
    """
    Yield what computes with the result of `source`, whose entries belong to `channels`, through moves and means over tokens.

    scaled: look through products and quotients with a number too.
    """
    known: dict[fx.Node, Any] = {source: channels}
    for node in source.graph.nodes:
        read = [n for n in node.all_input_nodes if n in known and not _is_like(node, n)]
        if not read or is_metadata(node):
            continue
        moved = moved_channels(node, known, scaled)
        if moved is not None:
            known[node] = moved
        else:
            yield from (ChannelReader(node, value, known[value]) for value in read)


def moved_channels(node: fx.Node, known: dict[fx.Node, Any], scaled: bool = False) -> Any:
    """Return to which channels the entries of `node` belong that only moves a `known` value; None where it does more."""
    read = [n for n in node.all_input_nodes if n in known and not _is_like(node, n)]
    if len(read) != 1 or not node.args or node.args[0] is not read[0]:
        return None
    if node.op == "call_module" or (node.op == "call_method" and node.target in _CASTS):
        return known[read[0]]
    if scaled and node.target in _SCALES and isinstance(node.args[1], int | float):
        return known[read[0]]
    if not moves_values(node) and not _is_mean(node):
        return None
    if node.target is F.pad and not has_fixed_sizes(node.graph):
        return None
    args, kwargs = map_arg((node.args, node.kwargs), lambda n: known.get(n, any_value_of(n)))
    function: Any = getattr(Tensor, node.target) if isinstance(node.target, str) else node.target
    return function(*args, **kwargs)


def is_metadata(node: fx.Node) -> bool:
    """Say whether `node` reads the shape, dtype or device of its argument, and none of its values."""
    return is_size(node) or (node.target is getattr and node.args[1] in ("dtype", "device"))


def has_fixed_sizes(graph: fx.Graph) -> bool:
    """Say whether a graph takes images of one size only, so that what is padded by nothing always is."""
    if graph not in _FIXED:
        _FIXED[graph] = _takes_one_size(graph)
    return _FIXED[graph]


def _takes_one_size(graph: fx.Graph) -> bool:
    inputs = [value_of(n) for n in graph.nodes if n.op == "placeholder"]
    tensors = [t for t in inputs if t is not None]
    gm = graph.owning_module
    if gm is None or len(tensors) < len(inputs):
        return False
    return all(set(varying_axes(gm, tensors, i)) <= {0} for i in range(len(tensors)))


def linear_readers(norm: fx.Node) -> tuple[fx.Node, ...] | str:
    """
    Return the linear layers that alone read the result of a `norm`, channel by channel; or what else stands in the way.

    norm: a call of `torch.nn.functional.layer_norm` or `rms_norm` over the last axis. Weights and biases are constants.
    """
    given = arguments_of(norm)
    constants = [given[name] for name in ("weight", "bias") if given.get(name) is not None]
    if len(given["normalized_shape"]) != 1 or not all(map(reads_tensor, constants)):
        return f"{name_of(norm)} normalises more than the channels, or has a scale that is computed"
    readers = []
    for reader in follow(norm, numbered(norm)):
        if not reads_channels(reader):
            return f"{name_of(reader.node)} reads {name_of(norm)}"
        readers.append(reader.node)
    return tuple(readers) or f"nothing reads {name_of(norm)}"


def reads_channels(reader: ChannelReader) -> bool:
    """Say whether a reader is a linear layer of constant weight and bias, whose inputs are the channels in order."""
    node = reader.node
    if node.target is not F.linear or node.args[0] is not reader.value or reader.value in node.all_input_nodes[1:]:
        return False
    return has_constant_weight(node) and in_place(reader.channels, reader.channels.shape[-1])


def has_constant_weight(product: fx.Node) -> bool:
    """Say whether weight and bias of a linear layer or convolution are tensors of the model, observed or not."""
    return all(
        a is None or reads_tensor(a.args[0] if isinstance(a, fx.Node) and a.op == "call_module" else a)
        for a in product.args[1:3]
    )


def name_of(node: fx.Node) -> str:
    """Return how an error names a node: by its module and by what it calls."""
    called = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"{called!r} of {module_path(node) or 'the model itself'}"


def is_norm(node: fx.Node) -> bool:
    """Say whether `node` calls a layer norm or RMS norm."""
    return node.op == "call_function" and node.target in FUNCTIONS


def _is_like(node: fx.Node, value: fx.Node) -> bool:
    """Say whether `node` takes no more than dtype or shape of `value`."""
    return node.target in ("type_as", "expand_as") and node.args[0] is not value


def _is_mean(node: fx.Node) -> bool:
    return node.target in (torch.mean, "mean")
