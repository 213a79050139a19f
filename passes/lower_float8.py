"""Run linear layers and convolutions on float8 codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import bias_of, tensor_of, window_of
from fxquant.graph.calls import call
from fxquant.graph.match import Call, Match, Var
from fxquant.graph.rewrite import Rule, rewrite
from fxquant.lowering.float8_product import float8_product
from fxquant.lowering.float8_site import float8_site
from fxquant.lowering.int8_product import cast_product
from fxquant.lowering.obstacles import obstacle
from fxquant.ops import dequantize_float8, extract_patches, float8_linear

_OPERANDS = Call(dequantize_float8, ...), Call(dequantize_float8, ...)
_DTYPE = Var("dtype", where=lambda v: isinstance(v, torch.dtype))
_PRODUCT = Call(float8_linear, ..., name="product")


def lower_float8(gm: fx.GraphModule) -> PassResult:
    """
    Compute linear layers and convolutions of e4m3 operands on the codes themselves.

    Before:  y = linear(dequantize_float8(q, s), dequantize_float8(w_codes, s_w, 0), b).to(bfloat16)
             z = conv2d(dequantize_float8(p, s), dequantize_float8(w_codes, s_w, 0), b, (16, 16))    # p: (B, 3, H, W)
    Becomes: y = float8_linear(q, w_float8, s * s_w, b, bfloat16)
             z = float8_linear(extract_patches(p, ...), w_float8, ...).permute(0, 3, 1, 2)          # (B, O, H', W')

    q: (B, N, K) and w_float8: (O, K), both e4m3, y: (B, N, O). A q with scales s of its rows goes to
    float8_linear(q, w_float8, s_w, b, bfloat16, s). What stands around the products stays: quantisers are steps that a compiler
    merges with what comes before them. A product that `fxquant.lowering.obstacles.obstacle` refuses stays simulated.
    """
    return rewrite(gm, RULES, "lower_float8")


def _linear(graph: fx.Graph, m: Match) -> fx.Node | None:
    root: fx.Node = m["root"]
    site = float8_site(root.args[0])
    return None if site is None or obstacle(root) else float8_product(graph, root, site.codes, m["bias"])


def _convolution(graph: fx.Graph, m: Match) -> fx.Node | None:
    root: fx.Node = m["root"]
    site, weight = float8_site(root.args[0]), float8_site(root.args[1])
    if site is None or weight is None or obstacle(root):
        return None
    kernel = tuple(tensor_of(weight.codes).shape[2:])
    window = {"kernel": kernel, "stride": window_of(root).stride, "padding": window_of(root).padding}
    patches = call(graph, extract_patches, {"codes": site.codes, **window, "zero_point": None, "qmax": 127})
    return graph.call_method("permute", (float8_product(graph, root, patches, bias_of(root)), 0, 3, 1, 2))


def _fold_cast(graph: fx.Graph, m: Match) -> fx.Node | None:
    return cast_product(graph, m["product"], m["dtype"])


def _fold_permuted_cast(graph: fx.Graph, m: Match) -> fx.Node | None:
    permuted: fx.Node = m["permuted"]
    product = cast_product(graph, m["product"], m["dtype"]) if len(permuted.users) == 1 else None
    return None if product is None else graph.call_method("permute", (product, *permuted.args[1:]))


RULES: tuple[Rule, ...] = (
    (Call(F.linear, *_OPERANDS, Var("bias", optional=True)), _linear),
    (Call(F.conv2d, *_OPERANDS, ...), _convolution),
    (Call("to", _PRODUCT, _DTYPE), _fold_cast),
    (Call("to", Call("permute", _PRODUCT, ..., name="permuted"), _DTYPE), _fold_permuted_cast),
)
