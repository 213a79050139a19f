"""Run linear layers as int8 products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.match import Call, Match, Var
from fxquant.graph.rewrite import Rule, rewrite
from fxquant.lowering.int8_product import cast_product, codes_of, few_rows, int8_product
from fxquant.lowering.obstacles import obstacle
from fxquant.ops import dequantize, dequantize_tokens, dequantize_twin, int8_linear, int8_linear_twin

_INPUT = Call((dequantize, dequantize_tokens, dequantize_twin), ...)
_SIMULATED = Call(F.linear, _INPUT, Call(dequantize, ...), Var("bias", optional=True))
_CAST = Call(
    "to",
    Call((int8_linear, int8_linear_twin), ..., name="linear"),
    Var("dtype", where=lambda v: isinstance(v, torch.dtype)),
)


def lower_linear(gm: fx.GraphModule) -> PassResult:
    """
    Compute quantised linear layers on the codes themselves.

    Before:  y = linear(dequantize(q, s, z, 0, 255), dequantize(w_codes, s_w, None, -128, 127, 0), b).to(bfloat16)
    Becomes: y = int8_linear(q, w_int8, s * s_w, b - s * s_w * z * sum_k w, None, None, bfloat16, False)

    q: (B, N, K) int8, w_int8: (O, K) int8, y: (B, N, O). A twin-uniform q goes to int8_linear_twin(q, w_int8, s_high * s_w,
    s_low * s_w, b, bfloat16, False). A q with scales and zero points of its rows, s and z, goes to
    int8_linear(q, w_int8, s_w, b, None, None, bfloat16, False, s, z).
    A product that `fxquant.lowering.obstacles.obstacle` refuses stays simulated.
    """
    return rewrite(gm, RULES, "lower_linear")


def _lower(graph: fx.Graph, m: Match) -> fx.Node | None:
    root: fx.Node = m["root"]
    codes = codes_of(root.args[0])
    if codes is None or obstacle(root) is not None:
        return None
    return int8_product(graph, root, codes, m["bias"], few_rows(root, -1))


def _fold_cast(graph: fx.Graph, m: Match) -> fx.Node | None:
    return cast_product(graph, m["linear"], m["dtype"])


RULES: tuple[Rule, ...] = ((_SIMULATED, _lower), (_CAST, _fold_cast))
