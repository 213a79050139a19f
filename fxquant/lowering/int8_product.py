"""Int8 products in place of simulated ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxquant.graph.attributes import read_buffer
from fxquant.graph.calls import arguments_of, call, call_again
from fxquant.graph.meta import Record, record_of, set_record, value_of
from fxquant.lowering.epilogue import Epilogue, TwinEpilogue, fold_epilogue, fold_token_epilogue, fold_twin_epilogue
from fxquant.lowering.quantized import quantized, quantized_twin
from fxquant.lowering.token_site import token_site
from fxquant.ops import int8_linear, int8_linear_twin

# What the constants of a product are called in the module.
_BUFFERS = {
    **{"weight": "weight_int8", "scale": "scale", "high": "scale_high", "low": "scale_low", "bias": "bias_folded"},
    **{"weight_zero_point": "weight_sum_zero_point", "input_zero_point": "input_sum_zero_point"},
}


def int8_product(graph: fx.Graph, root: fx.Node, codes: fx.Node, bias: Any, pad_rows: bool) -> fx.Node:
    """Build `int8_linear`, or `int8_linear_twin`, of `codes` ``(..., K)`` in place of the product `root`, with its record."""
    x, twin, tokens = quantized(root.args[0]), quantized_twin(root.args[0]), token_site(root.args[0])
    weight, record = quantized(root.args[1]), record_of(root)
    if weight is None or record is None:
        raise RuntimeError("expected an annotated product of two quantised operands")
    folded: Epilogue | TwinEpilogue
    if twin is not None:
        folded = fold_twin_epilogue(twin, weight, bias)
    elif x is not None:
        folded = fold_epilogue(x, weight, bias)
    elif tokens is not None:
        folded = fold_token_epilogue(weight, bias)
    else:
        raise RuntimeError("expected a product whose input is quantised")
    constants = {
        name: v if v is None else read_buffer(graph, f"{record.label}.{_BUFFERS[name]}", v)
        for name, v in folded._asdict().items()
    }
    target = int8_linear if twin is None else int8_linear_twin
    rows = {} if tokens is None else {"row_scale": tokens.scale, "row_zero_point": tokens.zero_point}
    product = call(graph, target, {"codes": codes, **constants, "dtype": torch.float32, "pad_rows": pad_rows, **rows})
    set_record(product, record)
    return product


def codes_of(value: object) -> fx.Node | None:
    """Return the codes, of any kind, that `value` stands for."""
    operand = quantized(value) or quantized_twin(value) or token_site(value)
    return None if operand is None else operand.codes


def few_rows(root: fx.Node, channel_axis: int) -> bool:
    """Say whether one image may give 16 rows or fewer, as in a classifier head; True where it is not known."""
    value = value_of(root)
    return value is None or value.numel() // value.shape[0] // value.shape[channel_axis] <= 16


def cast_product(graph: fx.Graph, product: fx.Node, dtype: torch.dtype) -> fx.Node | None:
    """Build `product`, which is float32, again in `dtype`; None where it is not, has other readers, or would stay the same."""
    # A second cast must not undo the rounding of the first.
    if len(product.users) > 1 or arguments_of(product)["dtype"] is not torch.float32 or dtype is torch.float32:
        return None
    new = call_again(graph, product, dtype=dtype)
    record: Record | None = record_of(product)
    if record is not None:
        set_record(new, record)
    return new
