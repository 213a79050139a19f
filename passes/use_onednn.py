"""Run int8 linear layers, and the GELU behind them, by oneDNN on x86 processors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.match import Call, Match
from fxquant.meta import record_of, set_record
from fxquant.ops.int8_linear import int8_linear
from fxquant.ops.onednn_linear import DTYPES, GELU_ALGORITHMS, onednn_linear
from fxquant.rewrite import Rule, rewrite

_LINEAR = Call(int8_linear, ...)
_GELU = Call(F.gelu, Call(onednn_linear, ..., name="linear"), ...)


def use_onednn(gm: fx.GraphModule) -> PassResult:
    """
    Replace each int8 linear layer by the kernel that also scales, adds the bias and applies GELU.

    Before:  y = gelu(int8_linear(q, w_int8, s, b, None, None, float32, False))
    Becomes: y = onednn_linear(q, w_int8, s, b, float32, "none")

    q: (B, N, K) int8, w_int8: (O, K) int8, y: (B, N, O). An affine weight and a float16 result keep `int8_linear`.
    """
    return rewrite(gm, RULES, "use_onednn")


def _replace(graph: fx.Graph, m: Match) -> fx.Node | None:
    node: fx.Node = m["root"]
    codes, weight, scale, bias, weight_zero_point, _, dtype, _ = node.args
    if weight_zero_point is not None or dtype not in DTYPES:
        return None
    return graph.call_function(onednn_linear, (codes, weight, scale, bias, dtype, None))


def _absorb_gelu(graph: fx.Graph, m: Match) -> fx.Node | None:
    linear: fx.Node = m["linear"]
    approximate = m["root"].kwargs.get("approximate", "none")
    if len(linear.users) > 1 or linear.args[5] is not None or approximate not in GELU_ALGORITHMS:
        return None
    new = graph.call_function(onednn_linear, (*linear.args[:5], approximate))
    record = record_of(linear)
    if record is not None:
        set_record(new, record)
    return new


RULES: tuple[Rule, ...] = ((_LINEAR, _replace), (_GELU, _absorb_gelu))
