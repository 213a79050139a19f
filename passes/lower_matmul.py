"""Run products of two activations, as attention has them, as int8 products."""

from __future__ import annotations

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import read_buffer
from fxquant.graph.calls import call
from fxquant.graph.match import Call, Match, Var
from fxquant.graph.meta import record_of, set_record
from fxquant.graph.rewrite import Rule, rewrite
from fxquant.lowering.epilogue import TwinMatmulEpilogue, fold_matmul
from fxquant.lowering.int8_product import cast_product, codes_of
from fxquant.lowering.obstacles import obstacle
from fxquant.ops import dequantize, dequantize_twin, int8_matmul, int8_matmul_twin

_SIMULATED = Call(
    torch.matmul,
    Call((dequantize, dequantize_twin), ..., name="left"),
    Call(dequantize, ..., name="right"),
)
_CAST = Call(
    "to",
    Call((int8_matmul, int8_matmul_twin), ..., name="product"),
    Var("dtype", where=lambda v: isinstance(v, torch.dtype)),
)


def lower_matmul(gm: fx.GraphModule) -> PassResult:
    """
    Compute quantised products of two activations on the codes themselves.

    Before:  y = matmul(dequantize(q, s_q, z_q, 0, 255), dequantize(k, s_k, z_k, 0, 255)).to(bfloat16)
    Becomes: y = int8_matmul(q, k, s_q * s_k, z_q - 128, z_k - 128, bfloat16)      # zero points as stored

    q: (B, H, N, D) int8, k: (B, H, D, N) int8, y: (B, H, N, N). Twin-uniform codes on the left go to
    int8_matmul_twin(p, v, s_high * s_v, s_low * s_v, z_v - 128, bfloat16). A product that
    `fxquant.lowering.obstacles.obstacle` refuses stays simulated.
    """
    return rewrite(gm, RULES, "lower_matmul")


def _lower(graph: fx.Graph, m: Match) -> fx.Node | None:
    root: fx.Node = m["root"]
    record = record_of(root)
    if record is None or obstacle(root) is not None:
        return None
    folded = fold_matmul(m["left"], m["right"])
    target = int8_matmul_twin if isinstance(folded, TwinMatmulEpilogue) else int8_matmul
    named = folded._asdict().items()
    buffers = {name: v if v is None else read_buffer(graph, f"{record.label}.{name}", v) for name, v in named}
    codes = {"a": codes_of(m["left"]), "b": codes_of(m["right"])}
    product = call(graph, target, {**codes, **buffers, "dtype": torch.float32})
    set_record(product, record)
    return product


def _fold_cast(graph: fx.Graph, m: Match) -> fx.Node | None:
    return cast_product(graph, m["product"], m["dtype"])


RULES: tuple[Rule, ...] = ((_SIMULATED, _lower), (_CAST, _fold_cast))
