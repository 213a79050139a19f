"""What is legal in a graph at each stage; checked after every pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxquant.config.kinds import operators
from fxquant.dialect.mutation import mutates
from fxquant.dialect.spellings import Spelling, respelling
from fxquant.errors import UnsupportedGraphError
from fxquant.graph.attributes import called_module, tensor_of
from fxquant.graph.dataflow import observed
from fxquant.graph.meta import record_of
from fxquant.graph.stages import Stage
from fxquant.lowering.float8_site import float8_site
from fxquant.lowering.obstacles import obstacle
from fxquant.lowering.quantized import INT8_PRODUCTS, factors
from fxquant.lowering.quantizer_site import quantizer_site
from fxquant.lowering.token_site import token_site
from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder
from fxquant.ops import (
    attention,
    attention_quantize,
    dequantize,
    dequantize_twin,
    extract_patches,
    float8_linear,
    layer_norm_quantize,
    layer_norm_quantize_tokens,
    quantize,
    quantize_twin,
)
from fxquant.ops.train_modules import TRAIN_MODULES

_PAIRS = {dequantize: quantize, dequantize_twin: quantize_twin}
_ON_CODES = {
    *INT8_PRODUCTS,
    float8_linear,
    attention,
    attention_quantize,
    extract_patches,
    layer_norm_quantize,
    layer_norm_quantize_tokens,
}
_PRODUCTS_TO_LOWER = (F.linear, F.conv2d, torch.matmul)


def verify(gm: fx.GraphModule, stage: Stage, complete: bool = True) -> None:
    """
    Raise `UnsupportedGraphError` naming the first node that is not legal at `stage`.

    Between the passes that lead to a stage the graph is not `complete` yet: what is still to be lowered is legal.
    """
    for node in gm.graph.nodes:
        problem = _problem(node, stage, complete)
        if problem is None and (complete or stage is not Stage.FLOAT):
            problem = _dialect_problem(node)
        if problem is None and complete:
            problem = _unfinished(node, stage)
        if problem is not None:
            raise UnsupportedGraphError(
                f"node {node.name!r} ({node.op} {_name(node.target)}) is not legal at stage {stage.value}: {problem}"
            )


def _problem(node: fx.Node, stage: Stage, complete: bool) -> str | None:
    if node.op == "call_module":
        observed = stage is Stage.PREPARED or (stage is Stage.QUANTISED and not complete)
        return _module_problem(called_module(node), observed)
    if node.target in operators() and stage in (Stage.FLOAT, Stage.PREPARED):
        return "values are not quantised before convert"
    if node.target in _ON_CODES and stage is not Stage.LOWERED:
        return "products of codes appear at lowering"
    return _codes_problem(node)


def _dialect_problem(node: fx.Node) -> str | None:
    if mutates(node):
        return "values are not changed in place"
    spelling = respelling(node)
    return f"expected the canonical spelling {_name(spelling[0])}{_arguments(spelling)}" if spelling else None


def _codes_problem(node: fx.Node) -> str | None:
    """Codes are read as they were written, and constant ones are stored as int8 or e4m3."""
    tokens = token_site(node)
    if tokens is not None:
        return None if tokens.maker is not None else "it does not read all that one quantize_tokens gives"
    site8 = float8_site(node)
    if site8 is not None and not site8.undoes:
        return "it does not read codes with the scale that they were made with"
    if site8 is not None or node.target is float8_linear:
        read = factors(node) if site8 is None else (site8.codes,)
        return _constant_problem(read, torch.float8_e4m3fn)
    if node.target not in _PAIRS and node.target not in INT8_PRODUCTS:
        return None
    site = quantizer_site(node) if node.target in _PAIRS else None
    if site is not None and isinstance(site.source, fx.Node) and site.source.target is _PAIRS[node.target]:
        made = quantizer_site(site.source)
        return None if made is not None and site.undoes(made) else "it does not undo the quantize that it reads"
    return _constant_problem(factors(node) if site is None else (site.source,), torch.int8)


def _constant_problem(codes: Iterable[object], dtype: torch.dtype) -> str | None:
    for constant in codes:
        if isinstance(constant, fx.Node) and constant.op == "get_attr":
            found = tensor_of(constant).dtype
            if found is not dtype:
                return f"expected {str(dtype).removeprefix('torch.')} codes, found {found}"
    return None


def _unfinished(node: fx.Node, stage: Stage) -> str | None:
    record = record_of(node)
    if record is None:
        return None
    if stage is Stage.PREPARED:
        pairs = zip(node.args, record.operands, strict=False)
        bare = [o.name for a, o in pairs if o.spec and isinstance(a, fx.Node) and observed(a) is None]
        return f"operand {bare[0]!r} has no observer" if bare else None
    if stage is not Stage.LOWERED or node.target not in _PRODUCTS_TO_LOWER:
        return None
    return None if obstacle(node) else "it could run on codes and was not lowered"


def _module_problem(module: object, observed: bool) -> str | None:
    if not observed:
        return "modules are inlined at this stage"
    known = (Observer, InputRecorder, *TRAIN_MODULES)
    return None if isinstance(module, known) else "only observers, and what trains a model, may be called"


def _arguments(spelling: Spelling) -> str:
    _, args, kwargs = spelling
    return f"({', '.join([*map(str, args), *(f'{k}={v}' for k, v in kwargs.items())])})"


def _name(target: Callable[..., Any] | str) -> str:
    if isinstance(target, str):
        return target
    # torch has functions of the same names
    folder = "operator." if getattr(target, "__module__", "") == "_operator" else ""
    return folder + str(getattr(target, "__name__", target))
