"""Float8 products in place of simulated ones."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxquant.graph.attributes import read_buffer, tensor_of
from fxquant.graph.calls import call
from fxquant.graph.meta import record_of, set_record
from fxquant.lowering.float8_site import float8_site
from fxquant.ops import float8_linear

ALIGNMENT = 16  # torch._scaled_mm on CUDA wants K and N to be multiples of 16


def float8_product(graph: fx.Graph, root: fx.Node, codes: fx.Node, bias: Any) -> fx.Node:
    """
    Build `float8_linear` of `codes` ``(..., K)`` in place of the product `root`, with its record.

    With codes c and w, ``y = s_x s_w sum c w + b``. The weight is flattened to ``(O, K)`` and padded with zeros to multiples of
    `ALIGNMENT`. Where each row has a scale of its own, s_x is left to the operator.
    """
    x, weight, record = float8_site(root.args[0]), float8_site(root.args[1]), record_of(root)
    if x is None or weight is None or record is None:
        raise RuntimeError("expected an annotated product of two float8 operands")
    codes_w = tensor_of(weight.codes).flatten(1)
    rows, columns = codes_w.shape
    scale = tensor_of(weight.scale).double() if x.per_token else tensor_of(x.scale).double() * tensor_of(weight.scale)
    shift = torch.zeros(rows, device=codes_w.device) if bias is None else tensor_of(bias).float()
    padding = (0, -columns % ALIGNMENT, 0, -rows % ALIGNMENT)
    padded = F.pad(codes_w.view(torch.uint8), padding).view(codes_w.dtype) if any(padding) else codes_w.contiguous()
    constants = {
        "weight": read_buffer(graph, f"{record.label}.weight_float8", padded),
        "scale": read_buffer(graph, f"{record.label}.scale", scale.expand(rows).float().contiguous()),
        "bias": read_buffer(graph, f"{record.label}.bias_float32", shift),
    }
    row_scale = {"row_scale": x.scale} if x.per_token else {}
    product = call(graph, float8_linear, {"codes": codes, **constants, "dtype": torch.float32, **row_scale})
    set_record(product, record)
    return product
