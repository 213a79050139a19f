"""
Arguments of graph nodes as JSON and back.

None, booleans, integers, finite floats and strings are themselves. Everything else is an object with one key that says what
it is: ``{"node": "x"}``, ``{"tuple": [1, 2]}``, ``{"slice": [null, 7, null]}``, ``{"dtype": "float32"}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Any

import torch
from torch import fx

from fxquant.checkpoint import scalars
from fxquant.checkpoint.names import check_key
from fxquant.checkpoint.scalars import Json
from fxquant.errors import CheckpointError

MAX_DEPTH = 20  # of tuples within tuples


def encode(value: object, depth: int = 0) -> Json:
    """Return the JSON form of an argument; raise `CheckpointError` for a kind that checkpoints do not hold."""
    if depth > MAX_DEPTH:
        raise CheckpointError(f"arguments nested deeper than {MAX_DEPTH}")
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is int:
        return scalars.checked_int(value)
    if type(value) is float:
        return scalars.encode_float(value)
    if type(value) is complex:
        return scalars.encode_complex(value)
    if isinstance(value, fx.Node):
        return {"node": value.name}
    return _encode_container(value, depth) or _encode_torch(value)


def _encode_container(value: object, depth: int) -> Json:
    # fx wraps lists and dicts in immutable subclasses; a torch.Size is a tuple, a named tuple nothing we know.
    if isinstance(value, torch.Size):
        return {"size": [encode(v, depth + 1) for v in value]}
    if type(value) is tuple:
        return {"tuple": [encode(v, depth + 1) for v in value]}
    if isinstance(value, list):
        return {"list": [encode(v, depth + 1) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[check_key(k), encode(v, depth + 1)] for k, v in value.items()]}
    if isinstance(value, slice):
        return {"slice": [encode(v, depth + 1) for v in (value.start, value.stop, value.step)]}
    return None


def _encode_torch(value: object) -> Json:
    if isinstance(value, EllipsisType):
        return {"ellipsis": True}
    if isinstance(value, torch.dtype):
        return {"dtype": scalars.dtype_name(value)}
    if isinstance(value, torch.device):
        scalars.device_named(str(value))
        return {"device": str(value)}
    for kind, table in (("layout", scalars.LAYOUTS), ("memory_format", scalars.MEMORY_FORMATS)):
        name = str(value).removeprefix("torch.")
        if table.get(name) is value:
            return {kind: name}
    raise CheckpointError(f"an argument of type {type(value).__name__} cannot be stored: {value!r:.100}")


def decode(data: Json, nodes: Mapping[str, fx.Node], depth: int = 0) -> Any:
    """Return the argument that `data` stands for; `nodes` holds the nodes defined so far, by name."""
    if depth > MAX_DEPTH:
        raise CheckpointError(f"arguments nested deeper than {MAX_DEPTH}")
    if data is None or isinstance(data, bool | str | float):
        return data
    if isinstance(data, int):
        return scalars.checked_int(data)
    if not isinstance(data, dict) or len(data) != 1:
        raise CheckpointError(f"expected an argument, found {data!r:.100}")
    ((kind, content),) = data.items()
    if kind == "node":
        if not isinstance(content, str) or content not in nodes:
            raise CheckpointError(f"it reads {content!r:.100}, which no earlier node defines")
        return nodes[content]
    if kind in _CONTAINERS:
        return _CONTAINERS[kind]([decode(v, nodes, depth + 1) for v in _items(content)])
    if kind == "dict":
        pairs = [_items(pair, 2) for pair in _items(content)]
        return {check_key(k): decode(v, nodes, depth + 1) for k, v in pairs}
    if kind not in _SCALARS:
        raise CheckpointError(f"unknown kind of argument {kind!r:.100}")
    return _SCALARS[kind](content)


def _items(content: Json, length: int | None = None) -> list[Json]:
    if not isinstance(content, list) or length not in (None, len(content)):
        raise CheckpointError(f"expected a list{f' of {length}' if length else ''}, found {content!r:.100}")
    return content


def _size(values: list[Any]) -> torch.Size:
    if not all(type(v) is int for v in values):
        raise CheckpointError(f"expected a size of integers, found {values!r:.100}")
    return torch.Size(values)


def _slice(values: list[Any]) -> slice:
    if len(values) != 3:
        raise CheckpointError(f"expected start, stop and step of a slice, found {values!r:.100}")
    return slice(*values)


def _ellipsis(content: Json) -> EllipsisType:
    return ...


_CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {"tuple": tuple, "list": list, "size": _size, "slice": _slice}
_SCALARS: dict[str, Callable[[Any], Any]] = {
    "ellipsis": _ellipsis,
    "float": scalars.decode_float,
    "complex": scalars.decode_complex,
    "dtype": scalars.dtype_named,
    "device": scalars.device_named,
    "layout": lambda name: scalars.lookup(scalars.LAYOUTS, name, "layout"),
    "memory_format": lambda name: scalars.lookup(scalars.MEMORY_FORMATS, name, "memory format"),
}
