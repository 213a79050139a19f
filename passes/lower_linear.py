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
from fxquant.ops import dequantize, dequantize_twin, int8_linear, int8_linear_twin
from fxquant.rewrite import Rule, rewrite

_SIMULATED = Call(F.linear, Call((dequantize, dequantize_twin), ...), Call(dequantize, ...), Var("bias", optional=True))
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
    s_low * s_w, b, bfloat16, False). A product that `fxquant.lowering.obstacle` refuses stays simulated.
    """
    return rewrite(gm, RULES, "lower_linear")


def int8_product(graph: fx.Graph, root: fx.Node, codes: fx.Node, bias: Any, pad_rows: bool) -> fx.Node:
    """Build the `int8_linear` node for the product `root`, reading `codes` ``(..., K)``, and hand it the record."""
    x, twin = lowering.quantized(root.args[0]), lowering.quantized_twin(root.args[0])
    weight, record = lowering.quantized(root.args[1]), record_of(root)
    if weight is None or record is None:
        raise RuntimeError("expected an annotated product of two quantised operands")
    folded: dict[str, torch.Tensor | None]
    if twin is not None:
        twins = lowering.fold_twin_epilogue(twin, weight, bias)
        folded = {
            "weight_int8": twins.weight,
            "scale_high": twins.high,
            "scale_low": twins.low,
            "bias_folded": twins.bias,
        }
    elif x is not None:
        one = lowering.fold_epilogue(x, weight, bias)
        folded = {"weight_int8": one.weight, "scale": one.scale, "bias_folded": one.bias}
        folded |= {"weight_sum_zero_point": one.weight_zero_point, "input_sum_zero_point": one.input_zero_point}
    else:
        raise RuntimeError("expected a product whose input is quantised")
    buffers = [v if v is None else read_buffer(graph, f"{record.label}.{name}", v) for name, v in folded.items()]
    target = int8_linear if twin is None else int8_linear_twin
    product = graph.call_function(target, (codes, *buffers, torch.float32, pad_rows))
    set_record(product, record)
    return product


def codes_of(value: object) -> fx.Node | None:
    """Return the codes, of either kind, that `value` stands for."""
    operand = lowering.quantized(value) or lowering.quantized_twin(value)
    return None if operand is None else operand.codes


def _lower(graph: fx.Graph, m: Match) -> fx.Node | None:
    root: fx.Node = m["root"]
    codes = codes_of(root.args[0])
    if codes is None or lowering.obstacle(root) is not None:
        return None
    return int8_product(graph, root, codes, m["bias"], few_rows(root, -1))


def few_rows(root: fx.Node, channel_axis: int) -> bool:
    """Say whether one image may give 16 rows or fewer, as in a classifier head; True where it is not known."""
    value = root.meta.get("val")
    return value is None or value.numel() // value.shape[0] // value.shape[channel_axis] <= 16


def cast_product(graph: fx.Graph, product: fx.Node, dtype: torch.dtype) -> fx.Node | None:
    """Return `product` again with results in `dtype`; None where others want them as they are."""
    # A second cast must not undo the rounding of the first.
    at = next(i for i, argument in enumerate(product.args) if isinstance(argument, torch.dtype))
    if len(product.users) > 1 or product.args[at] is not torch.float32 or dtype is torch.float32:
        return None
    new = graph.create_node("call_function", product.target, (*product.args[:at], dtype, *product.args[at + 1 :]))
    record: Record | None = record_of(product)
    if record is not None:
        set_record(new, record)
    return new


def _fold_cast(graph: fx.Graph, m: Match) -> fx.Node | None:
    return cast_product(graph, m["linear"], m["dtype"])


RULES: tuple[Rule, ...] = ((_SIMULATED, _lower), (_CAST, _fold_cast))
