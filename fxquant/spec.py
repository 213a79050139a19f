"""What is legal in a graph at each stage; checked after every pass."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxquant import lowering
from fxquant.attributes import tensor_of
from fxquant.errors import UnsupportedGraphError
from fxquant.meta import record_of
from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder
from fxquant.ops import dequantize, extract_patches, int8_linear, quantize
from fxquant.passes.canonicalize import Spelling, respelling
from fxquant.passes.functionalize import mutates


class Stage(Enum):
    """The stages a graph goes through."""

    FLOAT = "float"
    PREPARED = "prepared"
    QUANTISED = "quantised"
    LOWERED = "lowered"


_SIMULATION = {quantize, dequantize}
_INTEGER = {int8_linear, extract_patches}
_PRODUCTS_TO_LOWER = (F.linear, F.conv2d)


def stage_of(gm: fx.GraphModule) -> Stage | None:
    """Return the stage of a graph module made by fxquant, None for any other."""
    stage = gm.meta.get("stage")
    return stage if isinstance(stage, Stage) else None


def verify(gm: fx.GraphModule, stage: Stage, complete: bool = True) -> None:
    """
    Raise `UnsupportedGraphError` naming the first node that is not legal at `stage`.

    Between the passes that lead to a stage the graph is not `complete` yet: what is still to be lowered is legal.
    """
    for node in gm.graph.nodes:
        problem = _problem(gm, node, stage)
        if problem is None and (complete or stage is not Stage.FLOAT):
            problem = _dialect_problem(node)
        if problem is None and complete:
            problem = _unfinished(node, stage)
        if problem is not None:
            raise UnsupportedGraphError(
                f"node {node.name!r} ({node.op} {_name(node.target)}) is not legal at stage {stage.value}: {problem}"
            )


def _problem(gm: fx.GraphModule, node: fx.Node, stage: Stage) -> str | None:
    if node.op == "call_module":
        return _module_problem(gm.get_submodule(str(node.target)), stage)
    if node.target in _SIMULATION and stage in (Stage.FLOAT, Stage.PREPARED):
        return "values are not quantised before convert"
    if node.target in _INTEGER and stage is not Stage.LOWERED:
        return "integer products appear at lowering"
    return _codes_problem(node)


def _dialect_problem(node: fx.Node) -> str | None:
    if mutates(node):
        return "values are not changed in place"
    spelling = respelling(node)
    return f"expected the canonical spelling {_name(spelling[0])}{_arguments(spelling)}" if spelling else None


def _codes_problem(node: fx.Node) -> str | None:
    """Codes are read as they were written, and constant ones are stored as int8."""
    if node.target not in (dequantize, int8_linear):
        return None
    position = 0 if node.target is dequantize else 1
    codes = node.args[position]
    if node.target is dequantize and isinstance(codes, fx.Node) and codes.target is quantize:
        return None if codes.args[1:] == node.args[1:] else "it does not undo the quantize that it reads"
    if isinstance(codes, fx.Node) and codes.op == "get_attr":
        dtype = tensor_of(codes).dtype
        return None if dtype is torch.int8 else f"expected int8 codes, found {dtype}"
    return None


def _unfinished(node: fx.Node, stage: Stage) -> str | None:
    record = record_of(node)
    if record is None:
        return None
    if stage is Stage.PREPARED:
        pairs = zip(node.args, record.operands, strict=False)
        bare = [o.name for a, o in pairs if o.spec and isinstance(a, fx.Node) and a.op != "call_module"]
        return f"operand {bare[0]!r} has no observer" if bare else None
    if stage is not Stage.LOWERED or node.target not in _PRODUCTS_TO_LOWER:
        return None
    return None if lowering.obstacle(node) else "it could run on int8 and was not lowered"


def _module_problem(module: object, stage: Stage) -> str | None:
    if stage is not Stage.PREPARED:
        return "modules are inlined at this stage"
    return None if isinstance(module, Observer | InputRecorder) else "only observers may be called"


def _arguments(spelling: Spelling) -> str:
    _, args, kwargs = spelling
    return f"({', '.join([*map(str, args), *(f'{k}={v}' for k, v in kwargs.items())])})"


def _name(target: Callable[..., Any] | str) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
