"""Let float attention give the codes that the projection behind it reads."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import read_buffer, tensor_of
from fxquant.graph.calls import call, call_again
from fxquant.graph.match import Call, Match, Var
from fxquant.graph.meta import Product, Record, copy_value, record_of, set_record, value_of
from fxquant.graph.rewrite import Rule, rewrite
from fxquant.lowering.quantizer_site import quantizer_arguments, quantizer_site
from fxquant.ops.attention_quantize import attention, attention_quantize
from fxquant.ops.quantize import quantize
from fxquant.ops.tokens import quantize_tokens

_MERGED = Call(
    ("reshape", "view", "flatten"), Call("transpose", Var("context"), 1, 2, name="transposed"), ..., name="merged"
)
_ADD = (operator.add, torch.add)
_MUL = (operator.mul, torch.mul)


def fuse_attention(gm: fx.GraphModule) -> PassResult:
    """
    Compute attention that stays float, from queries to the codes of its merged heads, in one operator.

    Before:  p = softmax(matmul(q * f, k.transpose(-2, -1)) + relative_bias, -1)           # or one fused attention
             y = quantize(matmul(p, v).transpose(1, 2).reshape(B, N, C), s, z, 0, 255)
    Becomes: y = attention_quantize(q, k, v, f, relative_bias, None, s, z, 0, 255)

    q, k, v: (B, H, N, D), y: (B, N, C) int8. A constant bias per head, (H, N, M), and a constant mask per window, (W, N, M),
    become arguments. Where each token has a scale, the merged values become quantize_tokens(attention(q, k, v, f, bias, mask),
    False, 0, 255). Attention that adds anything else to its scores, such as a computed bias, stays as it is.
    """
    return rewrite(gm, RULES, "fuse_attention")


@dataclass
class _Scores:
    """What becomes of ``q @ k.mT`` before the softmax, read backwards from it."""

    factor: float = 1.0
    bias: fx.Node | None = None
    mask: fx.Node | None = None
    product: fx.Node | None = None


def _fuse(graph: fx.Graph, m: Match) -> fx.Node | None:
    site = quantizer_site(m["root"])
    read = None if site is None or site.axis is not None else _read(graph, m)
    if site is None or read is None:
        return None
    arguments, record = read
    new = call(graph, attention_quantize, arguments | quantizer_arguments(site, attention_quantize))
    set_record(new, record)
    return new


def _fuse_tokens(graph: fx.Graph, m: Match) -> fx.Node | None:
    read = _read(graph, m)
    if read is None:
        return None
    arguments, record = read
    new = call(graph, attention, arguments)
    set_record(new, record)
    copy_value(new, m["merged"])
    return call_again(graph, m["root"], x=new)


def _read(graph: fx.Graph, m: Match) -> tuple[dict[str, Any], Record] | None:
    """Return what attention reads, by the names of `attention`, and its record; None where it stays as it is."""
    context, merged = m["context"], m["merged"]
    private = [context, m["transposed"], merged]
    if not isinstance(context, fx.Node) or any(len(n.users) > 1 for n in private) or not _merges_heads(context, merged):
        return None
    found = _fused(context) if context.target is F.scaled_dot_product_attention else _opened(context)
    if found is None:
        return None
    q, k, v, scores, record = found
    if not _of_one_batch(q, k, v) or scores.factor <= 0:
        return None
    bias = _constant(graph, scores.bias, record, "attention_bias", 3)
    mask = _constant(graph, scores.mask, record, "attention_mask", 3)
    return {"q": q, "k": k, "v": v, "factor": scores.factor, "bias": bias, "mask": mask}, record


def _of_one_batch(*operands: Any) -> bool:
    """Say whether all have the same images and heads; a constant has those of one image, whatever the batch."""
    computed = [n for n in operands if isinstance(n, fx.Node) and n.op != "get_attr"]
    return len(computed) == len(operands) and len({_shape(n)[:2] for n in computed}) == 1


def _merges_heads(context: fx.Node, merged: fx.Node) -> bool:
    one, other = value_of(context), value_of(merged)
    if one is None or other is None or one.dim() != 4:
        return False
    batch, heads, queries, depth = one.shape
    return tuple(other.shape) == (batch, queries, heads * depth)


def _fused(node: fx.Node) -> tuple[Any, Any, Any, _Scores, Record] | None:
    """Read an attention node of torch; a mask, dropout or other mode keeps it as it is."""
    record, value = record_of(node), value_of(node.args[0])
    if record is None or value is None or len(node.args) > 3 or set(node.kwargs) - {"scale"}:
        return None
    factor = node.kwargs.get("scale")
    if factor is None:
        factor = 1 / math.sqrt(value.shape[-1])
    if not isinstance(factor, float | int):
        return None
    q, k, v = node.args
    record = replace(
        record, operands=(*record.operands[:2], *record.operands[3:])
    )  # no probabilities among the arguments
    return q, k, v, _Scores(float(factor)), record


def _opened(context: fx.Node) -> tuple[Any, Any, Any, _Scores, Record] | None:
    """Read a product of probabilities and values, back to the queries and keys."""
    if context.target is not torch.matmul or record_of(context) is None:
        return None
    probabilities, v = context.args
    if not isinstance(probabilities, fx.Node) or probabilities.target is not F.softmax or len(probabilities.users) > 1:
        return None
    value = value_of(probabilities)
    if value is None or value.dim() != 4 or probabilities.args[1:] not in ((-1,), (3,)) or probabilities.kwargs:
        return None
    scores = _read_scores(probabilities.args[0])
    if scores is None or scores.product is None:
        return None
    q, transposed = scores.product.args
    if not isinstance(transposed, fx.Node) or transposed.target != "transpose" or _axes(transposed) != {2, 3}:
        return None
    if isinstance(q, fx.Node) and q.target in _MUL and isinstance(q.args[1], float) and len(q.users) == 1:
        scores.factor *= q.args[1]
        q = q.args[0]
    return q, transposed.args[0], v, scores, _joined(scores.product, context)


def _read_scores(node: object) -> _Scores | None:
    """Read additions of constants, scaling and moves back to the product of queries and keys; None for anything else."""
    scores, factor, scaled = _Scores(), 1.0, False
    shapes: list[tuple[int, ...]] = []
    while isinstance(node, fx.Node) and len(node.users) == 1 and not node.kwargs:
        shape = _shape(node)
        if node.target is torch.matmul and record_of(node) is not None and len(shape) == 4:
            scores.factor, scores.product = factor, node
            return scores if all(_splits_batch(s, shape) for s in shapes) else None
        shapes.append(shape)
        if node.target in _MUL and isinstance(node.args[1], float):
            factor, scaled = factor * node.args[1], True
        elif node.target in _ADD and (scaled or not _take(scores, node.args[1], shape)):
            return None  # what is added before it is scaled has that scale too
        elif node.target not in (*_ADD, "reshape", "view"):
            return None
        node = node.args[0]
    return None


def _splits_batch(shape: tuple[int, ...], scores: tuple[int, ...]) -> bool:
    """Say whether `shape` is that of the scores ``(B, H, N, M)``, or with windows ``(B', W, H, N, M)``."""
    return shape == scores or (len(shape) == 5 and shape[0] * shape[1] == scores[0] and shape[2:] == scores[1:])


def _take(scores: _Scores, addend: object, shape: tuple[int, ...]) -> bool:
    """Keep a constant that is added to scores of `shape` as the bias of heads or the mask of windows."""
    if not isinstance(addend, fx.Node) or addend.op != "get_attr":
        return False
    added = tuple(tensor_of(addend).shape)
    square = shape[-2:]
    if (
        len(shape) == 4
        and scores.bias is None
        and added in ((1, shape[1], *square), (shape[1], *square), (1, 1, *square))
    ):
        scores.bias = addend
        return True
    if len(shape) == 5 and scores.mask is None and added in ((1, shape[1], 1, *square), (shape[1], 1, *square)):
        scores.mask = addend
        return True
    return False


def _constant(graph: fx.Graph, node: fx.Node | None, record: Record, name: str, rank: int) -> fx.Node | None:
    """Return `node` as `rank` axes."""
    if node is None:
        return None
    value = tensor_of(node)
    square = value.shape[-2:]
    return read_buffer(graph, f"{record.label}_{name}", value.reshape(-1, *square)) if value.dim() != rank else node


def _joined(scores: fx.Node, context: fx.Node) -> Record:
    """Return one record for both products."""
    one, other = record_of(scores), record_of(context)
    if one is None or other is None:
        raise RuntimeError("expected two annotated products")
    label = one.label.removesuffix(f".{one.product.value}")
    return replace(
        one, product=Product.ATTENTION, label=f"{label}.attention", operands=(*one.operands, *other.operands[1:])
    )


def _axes(transposed: fx.Node) -> set[int]:
    return {int(a) % 4 for a in transposed.args[1:]}  # type: ignore[arg-type]


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = value_of(node)
    return () if value is None else tuple(value.shape)


RULES: tuple[Rule, ...] = (
    (Call(quantize, _MERGED, ...), _fuse),
    (Call(quantize_tokens, _MERGED, ...), _fuse_tokens),
)
