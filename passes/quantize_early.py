"""Quantise before values are moved: a byte moves faster than a float."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import tensor_of
from fxquant.graph.calls import call_again
from fxquant.graph.dataflow import moves_values
from fxquant.graph.match import Call, Match
from fxquant.graph.meta import set_value, value_of
from fxquant.graph.rewrite import Rule, rewrite
from fxquant.lowering.quantizer_site import quantizer_site
from fxquant.numerics.arithmetic import storage_offset
from fxquant.ops.quantize import quantize

_QUANTIZE = Call(quantize, ...)
# Moves that make no copies of values and do not change their dtype.
_MOVES = {"reshape", "view", "permute", "transpose", "contiguous", "flatten", torch.roll, F.pad}


def quantize_early(gm: fx.GraphModule) -> PassResult:
    """
    Quantise the result of a layer norm before it is moved, as where it is cut into windows, and move the codes.

    Before:  q = quantize(layer_norm(x, ...).view(-1, 8, 7, 8, 7, C).permute(0, 1, 3, 2, 4, 5), s, z, 0, 255)
    Becomes: q = quantize(layer_norm(x, ...), s, z, 0, 255).view(-1, 8, 7, 8, 7, C).permute(0, 1, 3, 2, 4, 5)

    Codes are padded with the code of zero. A quantiser with a scale per channel stays, and so does one where a value in between
    has another reader, or where noise would be added to other channels.
    """
    return rewrite(gm, RULES, "quantize_early")


def _hoist(graph: fx.Graph, m: Match) -> fx.Node | None:
    root: fx.Node = m["root"]
    site = quantizer_site(root)
    if site is None:
        return None
    source, chain = site.source, list[fx.Node]()
    while isinstance(source, fx.Node) and _can_wait(source):
        chain.append(source)
        source = source.args[0]
    if not chain or not isinstance(source, fx.Node) or source.target is not F.layer_norm or site.axis is not None:
        return None
    if site.noise is not None and not all(_keeps_channels(node) for node in chain):
        return None
    codes = call_again(graph, root, x=source)
    set_value(codes, _codes_like(source))
    zero = (0 if site.zero_point is None else int(tensor_of(site.zero_point))) - storage_offset(site.qmax)
    for node in reversed(chain):
        value, codes = codes, graph.node_copy(node)
        codes.args = (value, *node.args[1:])
        set_value(codes, _codes_like(node))
        if node.target is F.pad:
            codes.kwargs = {"mode": "constant", "value": zero}
    return codes


def _can_wait(move: fx.Node) -> bool:
    if move.target is F.pad and (len(move.args) != 2 or not _pads_with_zero(**move.kwargs)):
        return False
    return move.target in _MOVES and moves_values(move) and len(move.users) == 1


def _pads_with_zero(mode: Any = "constant", value: Any = None) -> bool:
    return mode == "constant" and (value is None or value == 0)


def _codes_like(node: fx.Node) -> Tensor | None:
    known = value_of(node)
    return torch.empty_like(known, dtype=torch.int8) if known is not None else None


def _keeps_channels(move: fx.Node) -> bool:
    """Say whether the last axis of the result is that of the input, entry by entry."""
    before, after = (value_of(n) for n in (move.args[0], move) if isinstance(n, fx.Node))
    if before is None or after is None or move.target is F.pad:
        return False
    last: Any = before.dim() - 1
    if move.target == "permute":
        order: Any = move.args[1:] if isinstance(move.args[1], int) else move.args[1]
        return bool(order[-1] % before.dim() == last)
    if move.target in ("transpose", torch.roll):
        axes = move.args[1:] if move.target == "transpose" else move.args[2:] or move.kwargs.get("dims", (last,))
        flat = [a for each in axes for a in (each if isinstance(each, tuple | list) else (each,))]  # type: ignore[union-attr]
        return all(a % before.dim() != last for a in flat)
    return bool(before.shape[-1] == after.shape[-1])


RULES: tuple[Rule, ...] = ((_QUANTIZE, _hoist),)
