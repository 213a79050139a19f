"""A graph module as JSON and tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, fx
from torch.fx.graph import CodeGen

from fxquant.checkpoint import arguments, modules, node_meta, scalars, typed
from fxquant.checkpoint.decode import decode_graph
from fxquant.checkpoint.names import check_identifier
from fxquant.checkpoint.scalars import Json
from fxquant.checkpoint.tensors import Store
from fxquant.checkpoint.versions import library_versions
from fxquant.dialect import vocabulary
from fxquant.errors import CheckpointError
from fxquant.graph.card import ModelCard
from fxquant.graph.meta import capture_of, card_of, is_trainable, written_dtype
from fxquant.graph.stages import Stage, stage_of
from fxquant.ops import make_output
from fxquant.ops.output_class import portable_name
from fxquant.spec import verify


def encode(gm: fx.GraphModule) -> tuple[Json, dict[str, Tensor]]:
    """Return what `fxquant.checkpoint.decode.decode` rebuilds `gm` from; raise `CheckpointError` where it could not."""
    stage = stage_of(gm) if isinstance(gm, fx.GraphModule) else None
    if stage is None:
        raise CheckpointError(f"expected a graph from fxquant.trace, prepare or convert, found a {type(gm).__name__}")
    if type(gm.graph._codegen) is not CodeGen:
        raise CheckpointError(
            f"graphs with their own calling convention ({type(gm.graph._codegen).__name__}) have no form"
        )
    called = modules.called_modules(gm)
    store = Store(gm)
    stacks = node_meta.Stacks()
    dtype = written_dtype(gm)
    contents: dict[str, Json] = {
        "stage": stage.value,
        "dtype": None if dtype is None else scalars.dtype_name(dtype),
        "capture": typed.encode(capture_of(gm)),
        "card": _encode_card(card_of(gm)),
        "class": check_identifier(type(gm).__name__, "class"),
        "training": gm.training,
        "trainable": is_trainable(gm),
        "nodes": [_encode_node(n, stacks, stage in (Stage.QUANTISED, Stage.LOWERED)) for n in gm.graph.nodes],
        "stacks": stacks.entries,
        "modules": [modules.encode(path, module) for path, module in called.items()],
        "slots": store.slots,
        "tensors": store.descriptions,
    }
    # What is written must be readable: find out now, not when it is loaded.
    decode_graph(contents)
    verify(gm, stage)
    return contents, store.stored


def _encode_card(card: ModelCard) -> Json:
    return typed.encode(card if card.versions else replace(card, versions=library_versions()))


def _portable_arguments(node: fx.Node) -> tuple[Any, ...]:
    if node.target is not make_output:
        return node.args
    kind, name, *rest = node.args
    return (kind, portable_name(str(name)), *rest)


def _encode_node(node: fx.Node, stacks: node_meta.Stacks, converted: bool) -> Json:
    try:
        if node.op in ("call_function", "call_method"):
            reason = vocabulary.refusal(node.op, node.target, node.args, node.kwargs)
            if reason is not None:
                raise CheckpointError(reason)
        target = vocabulary.name_of(node.target) if node.op == "call_function" else node.target
        data: dict[str, Json] = {
            "name": node.name,
            "op": node.op,
            "target": target,
            "args": [arguments.encode(a) for a in _portable_arguments(node)],
        }
        if node.kwargs:
            data["kwargs"] = {key: arguments.encode(value) for key, value in node.kwargs.items()}
        return data | node_meta.encode(node, stacks, converted)
    except CheckpointError as error:
        raise CheckpointError(f"node {node.name!r}: {error}") from error
