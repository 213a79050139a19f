"""Run convolutions as int8 products over patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import bias_of, tensor_of, window_of
from fxquant.graph.calls import call
from fxquant.graph.match import Call, Match, Var
from fxquant.graph.rewrite import Rule, rewrite
from fxquant.lowering.int8_product import cast_product, codes_of, few_rows, int8_product
from fxquant.lowering.obstacles import obstacle
from fxquant.lowering.quantized import quantized
from fxquant.ops import dequantize, dequantize_twin, extract_patches, int8_linear, int8_linear_twin

_SIMULATED = Call(F.conv2d, Call((dequantize, dequantize_twin), ...), Call(dequantize, ...), ...)
_CAST = Call(
    "to",
    Call("permute", Call((int8_linear, int8_linear_twin), ..., name="product"), ..., name="permuted"),
    Var("dtype", where=lambda v: isinstance(v, torch.dtype)),
)


def lower_convolution(gm: fx.GraphModule) -> PassResult:
    """
    Compute quantised convolutions as a product of patches and the flattened weight.

    Before:  y = conv2d(dequantize(q, ...), dequantize(w_codes, ...), b, (16, 16))      # q: (B, 3, H, W)
    Becomes: p = extract_patches(q, (16, 16), (16, 16), (0, 0), None, 255)              # (B, H', W', 3*16*16)
             y = int8_linear(p, w_int8, ...).permute(0, 3, 1, 2)                        # (B, O, H', W')
    """
    return rewrite(gm, RULES, "lower_convolution")


def _lower(graph: fx.Graph, m: Match) -> fx.Node | None:
    root: fx.Node = m["root"]
    codes, weight = codes_of(root.args[0]), quantized(root.args[1])
    if codes is None or weight is None or obstacle(root) is not None:
        return None
    x = quantized(root.args[0])
    # The code of zero is 0 where the codes are twin.
    zero_point, qmax = (None, 127) if x is None else (x.zero_point, x.qmax)
    kernel = (tensor_of(weight.codes).shape[2], tensor_of(weight.codes).shape[3])
    window = {"kernel": kernel, "stride": window_of(root).stride, "padding": window_of(root).padding}
    patches = call(graph, extract_patches, {"codes": codes, **window, "zero_point": zero_point, "qmax": qmax})
    product = int8_product(graph, root, patches, bias_of(root), few_rows(root, 1))
    return graph.call_method("permute", (product, 0, 3, 1, 2))


def _fold_cast(graph: fx.Graph, m: Match) -> fx.Node | None:
    permuted: fx.Node = m["permuted"]
    if len(permuted.users) > 1:
        return None
    product = cast_product(graph, m["product"], m["dtype"])
    return None if product is None else graph.call_method("permute", (product, *permuted.args[1:]))


RULES: tuple[Rule, ...] = ((_SIMULATED, _lower), (_CAST, _fold_cast))
