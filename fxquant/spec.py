"""What is legal in a graph at each stage; checked after every pass."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import torch.nn.functional as F
from torch import fx

from fxquant import lowering
from fxquant.errors import UnsupportedGraphError
from fxquant.meta import record_of
from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder
from fxquant.ops import dequantize, extract_patches, int8_linear, quantize
from fxquant.passes.canonicalize import SPELLINGS


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
        problem = _problem(gm, node, stage) or (_unfinished(node, stage) if complete else None)
        if problem is not None:
            raise UnsupportedGraphError(
                f"node {node.name!r} ({node.op} {_name(node.target)}) is not legal at stage {stage.value}: {problem}"
            )


def _problem(gm: fx.GraphModule, node: fx.Node, stage: Stage) -> str | None:
    if node.op == "call_module":
        return _module_problem(gm.get_submodule(str(node.target)), stage)
    canonical = SPELLINGS.get(node.target, node.target)
    if canonical is not node.target and not node.kwargs and _respellable(node):
        return f"expected the canonical spelling {_name(canonical)}"
    if node.target in _SIMULATION and stage in (Stage.FLOAT, Stage.PREPARED):
        return "values are not quantised before convert"
    if node.target in _INTEGER and stage is not Stage.LOWERED:
        return "integer products appear at lowering"
    return None


def _unfinished(node: fx.Node, stage: Stage) -> str | None:
    if stage is not Stage.LOWERED or node.target not in _PRODUCTS_TO_LOWER or record_of(node) is None:
        return None
    return None if lowering.obstacle(node) else "it could run on int8 and was not lowered"


def _module_problem(module: object, stage: Stage) -> str | None:
    if stage is not Stage.PREPARED:
        return "modules are inlined at this stage"
    return None if isinstance(module, Observer | InputRecorder) else "only observers may be called"


def _respellable(node: fx.Node) -> bool:
    # torch.add(x, y, alpha=2) and the like keep their spelling.
    return len(node.args) == 2 or SPELLINGS[node.target] not in _TWO_ARGUMENTS


def _name(target: Callable[..., Any] | str) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


_TWO_ARGUMENTS = {SPELLINGS["add"], SPELLINGS["mul"], SPELLINGS["sub"], SPELLINGS["div"]}
