"""Let the first layer of an MLP give the codes that the second one reads."""

from __future__ import annotations

import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.calls import arguments_of, call
from fxquant.graph.match import Call, Match
from fxquant.graph.meta import Record, record_of, set_record
from fxquant.graph.rewrite import Rule, rewrite
from fxquant.lowering.quantizer_site import quantizer_arguments, quantizer_site
from fxquant.ops import (
    int8_linear,
    int8_linear_gelu_quantize,
    int8_linear_gelu_quantize_twin,
    quantize,
    quantize_twin,
)

_PATTERN = Call((quantize, quantize_twin), Call(F.gelu, Call(int8_linear, ..., name="linear"), ..., name="gelu"), ...)


def fuse_gelu(gm: fx.GraphModule) -> PassResult:
    """
    Put GELU and the quantiser behind it into the int8 product before them.

    Before:  q = quantize(gelu(int8_linear(p, w_int8, s_w, b, None, None, bfloat16, False)), s, z, 0, 255)
    Becomes: q = int8_linear_gelu_quantize(p, w_int8, s_w, b, "none", bfloat16, False, s, z, 0, 255)

    p: (B, N, K) int8, q: (B, N, O) int8. A twin-uniform quantiser gives int8_linear_gelu_quantize_twin. An affine weight, a
    scale per channel and values with other readers stay as they are.
    """
    return rewrite(gm, RULES, "fuse_gelu")


def _fuse(graph: fx.Graph, m: Match) -> fx.Node | None:
    root, gelu, linear = m["root"], m["gelu"], m["linear"]
    given, site = arguments_of(linear), quantizer_site(root)
    if len(gelu.users) > 1 or len(linear.users) > 1 or given["weight_zero_point"] is not None:
        return None
    if site is None or site.axis is not None or site.noise_per_patch():
        return None
    target = int8_linear_gelu_quantize if site.low is None else int8_linear_gelu_quantize_twin
    names = ("codes", "weight", "scale", "bias", "dtype", "pad_rows", "row_scale", "row_zero_point")
    product = {name: given[name] for name in names} | {"approximate": gelu.kwargs.get("approximate", "none")}
    new = call(graph, target, product | quantizer_arguments(site, target))
    record: Record | None = record_of(linear)
    if record is not None:
        set_record(new, record)
    return new


RULES: tuple[Rule, ...] = ((_PATTERN, _fuse),)
