"""
What is known about a node, as JSON and back: its record, its value's shape, and the module it comes from.

Stack traces are left out: they hold paths of the machine that traced the model.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.checkpoint import arguments, scalars, typed
from fxquant.checkpoint.names import check_text
from fxquant.checkpoint.scalars import Json
from fxquant.errors import CheckpointError
from fxquant.graph.meta import (
    Record,
    any_value_of,
    has_value,
    hidden_macs,
    module_stack,
    record_of,
    set_hidden_macs,
    set_module_stack,
    set_record,
    set_value,
)

# The named tuples that operators of torch give, such as that of a sort.
_NAMED: dict[str, Any] = {cls.__name__: cls for cls in torch.return_types.all_return_types}
_WRAPPED = "is_wrapped"  # torch.fx's mark of a function that tracing does not look into


class Stacks:
    """The module stacks of a graph, each kept once: the nodes of a module share theirs."""

    def __init__(self) -> None:
        self.entries: list[Json] = []
        self._index: dict[tuple[tuple[str, ...], ...], int] = {}

    def index(self, stack: dict[str, Any]) -> int:
        """Return the number of `stack`, adding it where it is new."""
        rows = tuple((str(key), str(path), _type_name(kind)) for key, (path, kind) in stack.items())
        if rows not in self._index:
            self._index[rows] = len(self.entries)
            self.entries.append([list(row) for row in rows])
        return self._index[rows]


def encode(node: fx.Node, stacks: Stacks, converted: bool) -> dict[str, Json]:
    """Return the entries of `node` that say what is known about it; see `fxquant.checkpoint.typed` for `converted`."""
    known: dict[str, Json] = {}
    if has_value(node):
        # Symbolic shapes and the like have no form: the value of such a node is not known after loading.
        with suppress(CheckpointError):
            known["val"] = _encode_value(any_value_of(node))
    if stack := module_stack(node):
        known["stack"] = stacks.index(stack)
    if node.meta.get(_WRAPPED):
        known["wrapped"] = True
    if hidden_macs(node):
        known["hidden_macs"] = hidden_macs(node)
    record = record_of(node)
    if record is not None:
        known["record"] = typed.encode(record, converted)
    return known


def decode_stacks(data: Json) -> list[dict[str, tuple[str, str]]]:
    """Return the module stacks of a graph; module types come back as names."""
    stacks = []
    for rows in data if isinstance(data, list) else []:
        names = [[check_text(text, "module stack") for text in row] for row in rows]
        stacks.append({key: (path, kind) for key, path, kind in names})
    return stacks


def decode(data: Json, node: fx.Node, stacks: list[dict[str, tuple[str, str]]]) -> None:
    """Write what `data` knows to ``node.meta``."""
    if "val" in data:
        set_value(node, _decode_value(data["val"]))
    if "stack" in data:
        index = scalars.field(data, "stack", int)
        if not 0 <= index < len(stacks):
            raise CheckpointError(f"it refers to module stack {index} of {len(stacks)}")
        set_module_stack(node, dict(stacks[index]))
    if data.get("wrapped"):
        node.meta[_WRAPPED] = True
    if "hidden_macs" in data:
        set_hidden_macs(node, scalars.field(data, "hidden_macs", int))
    if "record" in data:
        set_record(node, typed.decode(data["record"], Record))


def _encode_value(value: Any, depth: int = 0) -> Json:
    if isinstance(value, Tensor):
        shape = [arguments.encode(n) for n in value.shape]
        return {"tensor": [shape, scalars.dtype_name(value.dtype)]}
    if type(value) in _NAMED.values() and depth < arguments.MAX_DEPTH:
        return {"named": [type(value).__name__, [_encode_value(v, depth + 1) for v in value]]}
    if type(value) in (tuple, list) and depth < arguments.MAX_DEPTH:
        return {type(value).__name__: [_encode_value(v, depth + 1) for v in value]}
    return arguments.encode(value)


def _decode_value(data: Json, depth: int = 0) -> Any:
    if not isinstance(data, dict) or len(data) != 1 or depth > arguments.MAX_DEPTH:
        return arguments.decode(data, {}, depth)
    ((kind, content),) = data.items()
    if kind == "tensor" and isinstance(content, list) and len(content) == 2:
        return torch.empty(scalars.shape_of(content[0]), dtype=scalars.dtype_named(content[1]), device="meta")
    if kind in ("tuple", "list") and isinstance(content, list):
        values = [_decode_value(v, depth + 1) for v in content]
        return tuple(values) if kind == "tuple" else values
    if kind == "named" and isinstance(content, list) and len(content) == 2 and isinstance(content[1], list):
        return scalars.lookup(_NAMED, content[0], "named tuple of torch")(
            _decode_value(v, depth + 1) for v in content[1]
        )
    return arguments.decode(data, {}, depth)


def _type_name(kind: Any) -> str:
    return kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
