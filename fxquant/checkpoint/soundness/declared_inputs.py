"""Which inputs a saved graph says that it takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from fxquant.errors import CheckpointError
from fxquant.graph.attributes import called_module
from fxquant.graph.calls import arguments_of
from fxquant.graph.meta import model_dtype, value_of
from fxquant.observers.input_recorder import InputRecorder
from fxquant.ops import check_input

MAX_AXES = 16  # of a tensor: some kernels keep the sizes of no more
_CALLS = ("call_function", "call_method", "call_module")
_BATCH = 4  # stands for an axis of any size where nothing else tells


def declared_inputs(gm: fx.GraphModule) -> list[Tensor] | None:
    """
    Return a stand-in on the meta device for each input of `gm`; None where one is not declared.

    It is declared by the value that is known of it, by the batches that its recorder has seen, or by its check. Raises
    `CheckpointError` where these contradict each other.
    """
    found = [_declared(gm, node) for node in gm.graph.nodes if node.op == "placeholder"]
    known = [value for value in found if value is not None]
    if len(known) == len(found):
        return known
    told = next((n for n in gm.graph.nodes if n.op in _CALLS and value_of(n) is not None), None)
    if told is not None:
        raise CheckpointError(
            f"node {told.name!r}: its value is known, and an input that it depends on is not declared"
        )
    return None


def _declared(gm: fx.GraphModule, node: fx.Node) -> Tensor | None:
    value = value_of(node)
    for user in node.users:
        if user.op == "call_module" and isinstance(recorder := called_module(user), InputRecorder):
            value = _recorded(node, value, recorder)
        elif user.target is check_input:
            value = _checked(gm, node, value, arguments_of(user)["shape"])
    if value is not None and value.dim() > MAX_AXES:
        raise CheckpointError(f"node {node.name!r}: expected an input of at most {MAX_AXES} axes, found {value.dim()}")
    return value


def _recorded(node: fx.Node, value: Tensor | None, recorder: InputRecorder) -> Tensor | None:
    if not int(recorder.batches):
        return value
    sizes = [int(size) for size in recorder.shape]
    if any(size < 0 for size in sizes) or len(sizes) > MAX_AXES:
        raise CheckpointError(f"node {node.name!r}: its recorder holds {sizes!r:.100}, which is no shape")
    if value is None:
        return torch.empty(sizes, dtype=recorder.dtype or torch.float32, device="meta")
    _compare(node, value, [None, *sizes[1:]])
    return value


def _checked(gm: fx.GraphModule, node: fx.Node, value: Tensor | None, shape: object) -> Tensor | None:
    if not isinstance(shape, list | tuple) or not all(n is None or (type(n) is int and n >= 0) for n in shape):
        raise CheckpointError(f"node {node.name!r}: expected sizes or None to check an input by, found {shape!r:.100}")
    if value is not None:
        _compare(node, value, shape)
        return value
    if None in shape[1:] or not shape:
        return None
    sizes = [_BATCH if size is None else size for size in shape]
    return torch.empty(sizes, dtype=model_dtype(gm), device="meta")


def _compare(node: fx.Node, value: Tensor, sizes: Sequence[int | None]) -> None:
    fits = len(sizes) == value.dim() and all(n in (None, m) for n, m in zip(sizes, value.shape, strict=True))
    if not fits:
        raise CheckpointError(
            f"node {node.name!r}: its value has shape {tuple(value.shape)}, and its check says {list(sizes)!r:.100}"
        )
