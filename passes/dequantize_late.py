"""Move bytes rather than floats, and bring codes next to the products that read them."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import read_buffer, tensor_of
from fxquant.graph.match import Call, Match
from fxquant.graph.meta import drop_value, set_value, value_of
from fxquant.graph.rewrite import Rule, rewrite
from fxquant.lowering.quantized import quantized
from fxquant.lowering.quantizer_site import QuantizerSite, dequantize_node
from fxquant.numerics.arithmetic import storage_offset
from fxquant.ops.quantize import dequantize, quantize

_METHODS = ("reshape", "view", "permute", "transpose", "contiguous", "flatten", "unflatten", "unsqueeze", "squeeze")
_FUNCTIONS = (torch.permute, torch.transpose, torch.reshape, torch.flatten, torch.roll)
_SPLITS = ("unbind", "chunk", "split", torch.unbind, torch.chunk, torch.split)
_MUL = (operator.mul, torch.mul)


def dequantize_late(gm: fx.GraphModule) -> PassResult:
    """
    Move codes in place of the values that they stand for, where these have one scale; multiply that scale in place of them.

    Before:  q, k, v = dequantize(codes, s, z, 0, 255).reshape(B, N, 3, H, D).permute(2, 0, 3, 1, 4).unbind(0)
             scores = matmul(q * 0.125, k.transpose(-2, -1))
    Becomes: q, k, v = codes.reshape(B, N, 3, H, D).permute(2, 0, 3, 1, 4).unbind(0)
             scores = matmul(dequantize(q, s * 0.125, z, 0, 255), dequantize(k.transpose(-2, -1), s, z, 0, 255))

    Where values are padded with zeros, codes are padded with the code of zero.
    """
    return rewrite(gm, RULES, "dequantize_late")


def _move(graph: fx.Graph, m: Match) -> fx.Node | None:
    root: fx.Node = m["root"]
    operand = _movable(root.args[0])
    if operand is None:
        return None
    codes = graph.node_copy(root)
    codes.args = (operand.codes, *root.args[1:])
    _know(codes, root)
    return dequantize_node(graph, operand, codes)


def _pad(graph: fx.Graph, m: Match) -> fx.Node | None:
    root: fx.Node = m["root"]
    operand = _movable(root.args[0])
    options: dict[str, Any] = dict(zip(("mode", "value"), root.args[2:], strict=False)) | dict(root.kwargs)
    if operand is None or options.get("mode", "constant") != "constant" or options.get("value") not in (None, 0):
        return None
    zero = 0 if operand.zero_point is None else int(tensor_of(operand.zero_point))
    codes = graph.call_function(F.pad, (operand.codes, root.args[1]))
    codes.kwargs = {"mode": "constant", "value": zero - storage_offset(operand.qmax)}
    _know(codes, root)
    return dequantize_node(graph, operand, codes)


def _pick(graph: fx.Graph, m: Match) -> fx.Node | None:
    """Take one part of what was split, or select from the values themselves."""
    root: fx.Node = m["root"]
    source = root.args[0]
    if not isinstance(source, fx.Node):
        return None
    split = source.target in _SPLITS
    operand = _movable(source.args[0] if split else source)
    if operand is None:
        return None
    values = _split(graph, operand.codes, source) if split else operand.codes
    codes = graph.call_function(operator.getitem, (values, root.args[1]))
    _know(codes, root)
    return dequantize_node(graph, operand, codes)


def _split(graph: fx.Graph, codes: fx.Node, source: fx.Node) -> fx.Node:
    """Return the parts of `codes` as `source` splits its values, made once for all that are picked."""
    arguments = (codes, *source.args[1:])
    known = (n for n in codes.users if n.target == source.target and n.args == arguments and n.kwargs == source.kwargs)
    found = next(known, None)
    if found is None:
        found = graph.node_copy(source)
        found.args = arguments
        drop_value(found)
    return found


def _scale(graph: fx.Graph, m: Match) -> fx.Node | None:
    root: fx.Node = m["root"]
    operand, number = _movable(root.args[0]), root.args[1]
    # Directly behind its quantiser, a pair has to stay a pair.
    if operand is None or not isinstance(number, int | float) or number <= 0 or operand.codes.target is quantize:
        return None
    name = str(operand.scale.target)
    scale = read_buffer(graph, f"{name}_scaled", tensor_of(operand.scale) * number)
    return dequantize_node(graph, replace(operand, scale=scale))


def _movable(value: object) -> QuantizerSite | None:
    """Return the codes of a value that has one scale and is computed at run time."""
    operand = quantized(value)
    if operand is None or operand.axis is not None or operand.codes.op == "get_attr":
        return None
    return operand


def _know(codes: fx.Node, moved: fx.Node) -> None:
    known = value_of(moved)
    drop_value(codes)
    if known is not None:
        set_value(codes, torch.empty_like(known, dtype=torch.int8))


_ANY = Call(dequantize, ...)
RULES: tuple[Rule, ...] = (
    (Call((*_METHODS, *_FUNCTIONS), _ANY, ...), _move),
    (Call(F.pad, _ANY, ...), _pad),
    (Call(operator.getitem, ...), _pick),
    (Call(_MUL, _ANY, ...), _scale),
)
