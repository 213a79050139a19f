"""Int8 products in place of simulated ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxquant.graph.attributes import read_buffer
from fxquant.graph.meta import Record, record_of, set_record, value_of
from fxquant.lowering.epilogue import fold_epilogue, fold_twin_epilogue
from fxquant.lowering.quantized import quantized, quantized_twin
from fxquant.ops import int8_linear, int8_linear_twin


def int8_product(graph: fx.Graph, root: fx.Node, codes: fx.Node, bias: Any, pad_rows: bool) -> fx.Node:
    """Build the `int8_linear` node for the product `root`, reading `codes` ``(..., K)``, and hand it the record."""
    x, twin = quantized(root.args[0]), quantized_twin(root.args[0])
    weight, record = quantized(root.args[1]), record_of(root)
    if weight is None or record is None:
        raise RuntimeError("expected an annotated product of two quantised operands")
    folded: dict[str, torch.Tensor | None]
    if twin is not None:
        twins = fold_twin_epilogue(twin, weight, bias)
        folded = {
            "weight_int8": twins.weight,
            "scale_high": twins.high,
            "scale_low": twins.low,
            "bias_folded": twins.bias,
        }
    elif x is not None:
        one = fold_epilogue(x, weight, bias)
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
    operand = quantized(value) or quantized_twin(value)
    return None if operand is None else operand.codes


def few_rows(root: fx.Node, channel_axis: int) -> bool:
    """Say whether one image may give 16 rows or fewer, as in a classifier head; True where it is not known."""
    value = value_of(root)
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
