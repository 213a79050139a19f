"""Run linear layers as int8 products."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant import lowering
from fxquant.attributes import read_buffer
from fxquant.match import Call, Match, Var
from fxquant.meta import Record, record_of, set_record
from fxquant.ops import dequantize, int8_linear
from fxquant.rewrite import Rule, rewrite

_SIMULATED = Call(F.linear, Call(dequantize, ...), Call(dequantize, ...), Var("bias", optional=True))
_CAST = Call("to", Call(int8_linear, ..., name="linear"), Var("dtype", where=lambda v: isinstance(v, torch.dtype)))


def lower_linear(gm: fx.GraphModule) -> PassResult:
    """
    Compute quantised linear layers on the codes themselves.

    Before:  y = linear(dequantize(q, s, z, 0, 255), dequantize(w_codes, s_w, None, -128, 127, 0), b).to(bfloat16)
    Becomes: y = int8_linear(q, w_int8, s * s_w, b - s * s_w * z * sum_k w, None, None, bfloat16, False)

    q: (B, N, K) int8, w_int8: (O, K) int8, y: (B, N, O). A product that `fxquant.lowering.obstacle` refuses stays simulated.
    """
    return rewrite(gm, RULES, "lower_linear")


def int8_product(graph: fx.Graph, root: fx.Node, codes: fx.Node, bias: Any, pad_rows: bool) -> fx.Node:
    """Build the `int8_linear` node for the product `root`, reading `codes` ``(..., K)``, and hand it the record."""
    x, weight = lowering.quantized(root.args[0]), lowering.quantized(root.args[1])
    record = record_of(root)
    if x is None or weight is None or record is None:
        raise RuntimeError("expected an annotated product of two quantised operands")
    folded = lowering.fold_epilogue(x, weight, bias)
    label = record.label

    def buffer(name: str, value: torch.Tensor | None) -> fx.Node | None:
        return None if value is None else read_buffer(graph, f"{label}.{name}", value)

    product = graph.call_function(
        int8_linear,
        (
            codes,
            buffer("weight_int8", folded.weight),
            buffer("scale", folded.scale),
            buffer("bias_folded", folded.bias),
            buffer("weight_sum_zero_point", folded.weight_zero_point),
            buffer("input_sum_zero_point", folded.input_zero_point),
            torch.float32,
            pad_rows,
        ),
    )
    set_record(product, record)
    return product


def _lower(graph: fx.Graph, m: Match) -> fx.Node | None:
    root: fx.Node = m["root"]
    x = lowering.quantized(root.args[0])
    if x is None or lowering.obstacle(root) is not None:
        return None
    return int8_product(graph, root, x.codes, m["bias"], few_rows(root, -1))


def few_rows(root: fx.Node, channel_axis: int) -> bool:
    """Say whether one image may give 16 rows or fewer, as in a classifier head; True where it is not known."""
    value = root.meta.get("val")
    return value is None or value.numel() // value.shape[0] // value.shape[channel_axis] <= 16


def cast_product(graph: fx.Graph, product: fx.Node, dtype: torch.dtype) -> fx.Node | None:
    """Return `product` again with results in `dtype`; None where others want them as they are."""
    # A second cast must not undo the rounding of the first.
    if len(product.users) > 1 or product.args[6] is not torch.float32 or dtype is torch.float32:
        return None
    arguments = list(product.args)
    arguments[6] = dtype
    new = graph.call_function(int8_linear, tuple(arguments))
    record: Record | None = record_of(product)
    if record is not None:
        set_record(new, record)
    return new


def _fold_cast(graph: fx.Graph, m: Match) -> fx.Node | None:
    return cast_product(graph, m["linear"], m["dtype"])


RULES: tuple[Rule, ...] = ((_SIMULATED, _lower), (_CAST, _fold_cast))
