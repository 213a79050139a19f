"""Whether indices that a file holds lie within what they index: no kernel is asked to find out."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.errors import CheckpointError
from fxquant.graph.attributes import tensor_of
from fxquant.graph.dataflow import moves_values

Range = tuple[int, int]

_ALONG = {
    *("gather", "index_select", "index_add", "index_copy", "index_fill", "index_reduce", "scatter", "scatter_add"),
    *("scatter_reduce", "take_along_dim"),
}
_BY_PLACES = {"index", "index_put", "_unsafe_index"}
# Operators that give places -> where they take the axis, and which one it is otherwise.
_PLACES: dict[str, tuple[int, int | None]] = {"argmax": (1, None), "argmin": (1, None), "argsort": (1, -1)}
_VALUES_AND_PLACES: dict[str, tuple[int, int | None]] = {
    **{"topk": (2, -1), "kthvalue": (2, -1), "sort": (1, -1), "max": (1, None), "min": (1, None), "median": (1, None)},
    **{"mode": (1, -1), "cummax": (1, None), "cummin": (1, None)},
}


def check_indices(gm: fx.GraphModule, values: Mapping[fx.Node, Any]) -> None:
    """
    Raise `CheckpointError` naming a node of `gm` that would read beyond the end of what it indexes.

    values: of each node, on the meta device. Indices that depend on the inputs are left to the kernels.
    """
    ranges: dict[fx.Node, Range] = {}
    for node in gm.graph.nodes:
        found = _range_of(node, ranges, values)
        if found is not None:
            ranges[node] = found
        for index, size, negative in _indexed(node, values):
            if index in ranges and not (-size if negative else 0) <= ranges[index][0] <= ranges[index][1] < size:
                low, high = ranges[index]
                raise CheckpointError(f"node {node.name!r}: expected indices below {size}, found {low} to {high}")


def _range_of(node: fx.Node, ranges: Mapping[fx.Node, Range], values: Mapping[fx.Node, Any]) -> Range | None:
    value = values[node]
    if not isinstance(value, Tensor) or value.dtype not in (torch.int64, torch.int32, torch.uint8) or not value.numel():
        return None
    if node.op == "get_attr":
        low, high = torch.aminmax(tensor_of(node))
        return int(low), int(high)
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    if moves_values(node) and node.target is not F.pad and isinstance(values[source], Tensor):
        return ranges.get(source)
    if node.target is operator.getitem and node.args[1] == 1:  # of values, and the places of them
        return _range_of_places(source, values) if _name(source) in _VALUES_AND_PLACES else None
    return _range_of_places(node, values) if _name(node) in _PLACES else None


def _range_of_places(node: fx.Node, values: Mapping[fx.Node, Any]) -> Range | None:
    """Return the range of the places, along an axis or in the whole, of values that are chosen or ordered."""
    source = values.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
    position, default = (_PLACES | _VALUES_AND_PLACES)[_name(node)]
    axis = node.args[position] if len(node.args) > position else node.kwargs.get("dim", default)
    if not isinstance(source, Tensor) or not isinstance(axis, int | None):
        return None
    shape = source.shape or (1,)
    return 0, (source.numel() if axis is None else shape[axis]) - 1


def _indexed(node: fx.Node, values: Mapping[fx.Node, Any]) -> Iterator[tuple[Any, int, bool]]:
    """Yield what a node takes as an index, the size of what it indexes, and whether it may count from the end."""
    args: list[Any] = [*node.args, *node.kwargs.values()]
    shapes = [values[a].shape if isinstance(a, fx.Node) and isinstance(values[a], Tensor) else None for a in args]
    name = _name(node)
    if node.target is F.embedding and len(shapes) > 1 and shapes[1]:
        yield args[0], shapes[1][0], False
    elif name == "embedding" and len(shapes) > 1 and shapes[0]:
        yield args[1], shapes[0][0], False
    elif name in _ALONG and len(args) > 2 and shapes[0]:
        dim, index = (args[2], args[1]) if isinstance(args[1], fx.Node) else (args[1], args[2])
        if type(dim) is int and -len(shapes[0]) <= dim < len(shapes[0]):
            yield index, shapes[0][dim], False
    elif (node.target is operator.getitem or name in _BY_PLACES) and len(args) > 1 and shapes[0] is not None:
        # None is a whole axis to ATen, and a new one to Python.
        entries = args[1] if isinstance(args[1], tuple | list) else [args[1]]
        if node.target is not operator.getitem:
            entries = [slice(None) if entry is None else entry for entry in entries]
        yield from ((index, size, True) for index, size in _aligned(entries, shapes[0], values))


def _aligned(entries: Sequence[Any], shape: torch.Size, values: Mapping[fx.Node, Any]) -> Iterator[tuple[Any, int]]:
    """Yield each tensor within an index of `shape`, and the size of the axis that it selects from."""
    taken = [_axes_taken(entry, values) for entry in entries]
    axis = 0
    for entry, count in zip(entries, taken, strict=True):
        if entry is ...:
            count = len(shape) - sum(taken)
        elif count == 1 and isinstance(entry, fx.Node) and axis < len(shape):
            yield entry, shape[axis]
        axis += count


def _axes_taken(entry: Any, values: Mapping[fx.Node, Any]) -> int:
    if entry is ...:
        return 0
    value = values.get(entry) if isinstance(entry, fx.Node) else entry
    if isinstance(value, Tensor) and value.dtype is torch.bool:
        return value.dim()
    return 0 if value is None and not isinstance(entry, fx.Node) else 1


def _name(node: fx.Node) -> str:
    if node.op == "call_method":
        return str(node.target)
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", ""))
