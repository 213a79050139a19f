"""Keep float32 on the way to a quantiser, which computes in float32 anyway."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import read_buffer, tensor_of
from fxquant.graph.calls import arguments_of, call_again
from fxquant.graph.dataflow import moves_values
from fxquant.graph.match import Call, Match, Var
from fxquant.graph.meta import set_value, value_of
from fxquant.graph.rewrite import Rule, rewrite
from fxquant.lowering.quantized import is_quantized
from fxquant.ops import (
    add_noise,
    quantize,
    quantize_adalog,
    quantize_float8,
    quantize_float8_tokens,
    quantize_tokens,
    quantize_twin,
)

_HALF = (torch.bfloat16, torch.float16)
_QUANTIZERS = (
    *(quantize, quantize_adalog, quantize_tokens, quantize_twin, add_noise),
    *(quantize_float8, quantize_float8_tokens),
)
_GELU = Call(F.gelu, Call("to", Var("product"), Var("dtype"), name="cast"), ...)
_INPUT = Call(_QUANTIZERS, Call("to", Var("x"), Var("dtype")), ...)
_NORM = Call(F.layer_norm, Var("x"), Var("shape"), ...)


def keep_float32(gm: fx.GraphModule) -> PassResult:
    """
    Leave out roundings to bfloat16 or float16 of values that are about to become codes.

    Before:  q = quantize(gelu(linear(dequantize(...), dequantize(...), b).to(bfloat16)), s, z, 0, 255)
             p = quantize(layer_norm(x, (C,), gamma, beta, eps), s, z, 0, 255)                      # x, gamma, beta: bfloat16
    Becomes: q = quantize(gelu(linear(dequantize(...), dequantize(...), b)), s, z, 0, 255)
             p = quantize(layer_norm(x.to(float32), (C,), gamma_float32, beta_float32, eps), s, z, 0, 255)

    A float32 image that was cast is read before the cast. A value that anything but quantisers reads, moved or not, is rounded
    as before.
    """
    return rewrite(gm, RULES, "keep_float32")


def _drop_cast(graph: fx.Graph, m: Match) -> fx.Node | None:
    root, cast, product = m["root"], m["cast"], m["product"]
    in_float32 = isinstance(product, fx.Node) and all(is_quantized(a) for a in product.args[:2])
    if m["dtype"] not in _HALF or not in_float32 or len(cast.users) > 1 or not _becomes_codes(root):
        return None
    gelu = graph.call_function(F.gelu, (product,), root.kwargs)
    set_value(gelu, _in_float32(root))
    return gelu


def _widen_norm(graph: fx.Graph, m: Match) -> fx.Node | None:
    root, value = m["root"], value_of(m["root"])
    given = arguments_of(root)
    parameters = {name: given[name] for name in ("weight", "bias")}
    if value is None or value.dtype not in _HALF or root.kwargs or not _becomes_codes(root):
        return None
    if any(p is not None and (not isinstance(p, fx.Node) or p.op != "get_attr") for p in parameters.values()):
        return None
    wide = {
        name: p if p is None else read_buffer(graph, f"{p.target}_float32", tensor_of(p).float())
        for name, p in parameters.items()
    }
    x = graph.call_method("to", (m["x"], torch.float32))
    set_value(x, _in_float32(m["x"]))
    norm = call_again(graph, root, input=x, **wide)
    set_value(norm, _in_float32(root))
    return norm


def _read_input(graph: fx.Graph, m: Match) -> fx.Node | None:
    root, x = m["root"], m["x"]
    value = value_of(x)
    if m["dtype"] not in _HALF or value is None or value.dtype is not torch.float32:
        return None
    return call_again(graph, root, x=x)


def _in_float32(node: fx.Node) -> Any:
    value = value_of(node)
    return torch.empty_like(value, dtype=torch.float32) if value is not None else None


def _becomes_codes(node: fx.Node) -> bool:
    """Say whether nothing but quantisers reads the values of `node`, through moves and questions about their shape."""
    stack, quantized = list(node.users), False
    while stack:
        user = stack.pop()
        if user.target in _QUANTIZERS:
            quantized = True
        elif user.target is getattr or user.target == "size":
            continue
        elif moves_values(user) and user.target not in ("to", "float", "type_as"):
            stack.extend(user.users)
        else:
            return False
    return quantized


RULES: tuple[Rule, ...] = ((_GELU, _drop_cast), (_NORM, _widen_norm), (_INPUT, _read_input))
