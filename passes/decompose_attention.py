"""Open fused attention where the config quantises its products."""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import tensor_of
from fxquant.graph.match import Call, Match, Var, match
from fxquant.graph.meta import Product, Record, record_of, set_record, value_of
from fxquant.graph.rewrite import Rule, blame, edit, rewrite

_FUSED = Call(F.scaled_dot_product_attention, Var("q"), Var("k"), Var("v"), Var("mask", optional=True), ...)


def decompose_attention(gm: fx.GraphModule) -> PassResult:
    """
    Open `scaled_dot_product_attention` into the two products that the config quantises.

    Before:  scaled_dot_product_attention(q, k, v, mask)                 # (B, H, N, D)
    Becomes: softmax(matmul(q, k.transpose(-2, -1)) * scale + mask) @ v

    Where the record says that attention stays float the fused kernel stays. Boolean masks, causal attention, grouped
    queries and dropout stay fused too, and the record says so.
    """
    # Refusals first: a rule that declines changes nothing, not even a record.
    refused = edit(gm, _refuse)
    opened = rewrite(refused.graph_module, RULES, "decompose_attention")
    return PassResult(opened.graph_module, refused.modified or opened.modified)


def _refuse(gm: fx.GraphModule) -> bool:
    """Let the record of each attention node that has to stay fused say why; return whether there is one."""
    modified = False
    for node in gm.graph.nodes:
        found, record = match(_FUSED, node), _record_to_open(node)
        if found is None or record is None:
            continue
        with blame("decompose_attention", node):
            refusal = _refusal(node, found["mask"])
        if refusal is not None:
            set_record(node, record.left_float(refusal))
            modified = True
    return modified


def _record_to_open(node: fx.Node) -> Record | None:
    """Return the record of an attention node that the config quantises, None for any other."""
    record = record_of(node)
    if record is None or record.reason is not None or all(o.spec is None for o in record.operands):
        return None
    return record


def _open(graph: fx.Graph, m: Match) -> fx.Node | None:
    node: fx.Node = m["root"]
    record = _record_to_open(node)
    if record is None:
        return None
    keys = graph.call_method("transpose", (m["k"], -2, -1))
    scores = graph.call_function(torch.matmul, (m["q"], keys))
    set_record(scores, _part(record, Product.QK))
    scaled: fx.Node = graph.call_function(operator.mul, (scores, _scale(graph, node, m["q"])))
    if m["mask"] is not None:
        scaled = graph.call_function(operator.add, (scaled, m["mask"]))
    probs = graph.call_function(F.softmax, (scaled, -1))
    context = graph.call_function(torch.matmul, (probs, m["v"]))
    set_record(context, _part(record, Product.PV))
    return context


RULES: tuple[Rule, ...] = ((_FUSED, _open),)


def _refusal(node: fx.Node, mask: Any) -> str | None:
    if node.kwargs.get("is_causal") or node.kwargs.get("enable_gqa"):
        return "causal or grouped-query attention stays fused"
    if node.kwargs.get("dropout_p"):
        return "attention with dropout stays fused"
    if not isinstance(mask, fx.Node):
        return None
    value = tensor_of(mask) if mask.op == "get_attr" else value_of(mask)
    if value is None:
        return "attention stays fused where the dtype of its mask is unknown: give prepare example_inputs"
    return "attention with a boolean mask stays fused" if value.dtype is torch.bool else None


def _scale(graph: fx.Graph, node: fx.Node, query: Any) -> Any:
    scale = node.kwargs.get("scale")
    if scale is not None:
        return scale
    value = value_of(query)
    if value is not None:
        return 1.0 / math.sqrt(value.shape[-1])
    width = graph.call_method("size", (query, -1))
    return graph.call_function(operator.pow, (width, -0.5))


def _part(record: Record, product: Product) -> Record:
    label = f"{record.label.removesuffix('.attention')}.{product.value}"
    operands = record.operands[:2] if product is Product.QK else record.operands[2:]
    named = tuple(replace(o, name=f"{label}.{o.name.rpartition('.')[2]}") for o in operands)
    return replace(record, product=product, label=label, operands=named)
