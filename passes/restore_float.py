"""Give chosen int8 linear layers back to the float product, where int8 does not pay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import read_buffer, tensor_of
from fxquant.graph.match import Call, Match
from fxquant.graph.meta import Record, known_value, model_dtype, record_of, set_record, set_value
from fxquant.graph.rewrite import Rule, rewrite
from fxquant.lowering.linear_site import LinearSite, linear_site
from fxquant.lowering.opened import cast_node, open_norm, steps_behind
from fxquant.lowering.quantized import INT8_LINEARS, stored_zero_point
from fxquant.lowering.quantizer_site import QuantizerSite, dequantize_node, quantizer_behind
from fxquant.ops import dequantize, layer_norm_quantize


@dataclass(frozen=True)
class RestoreFloat:
    """
    Replace the int8 linear layers that `reasons` names by float ones that read what the codes stand for.

    Before:  q = layer_norm_quantize(x, gamma, beta, 1e-06, s, z, 0, 255)
             p = int8_linear_gelu_quantize(q, w_int8, s_w, b, "none", bfloat16, False, s_p, z_p, 0, 255)
    Becomes: q = quantize(layer_norm(x.to(float32), (C,), gamma, beta, 1e-06), s, z, 0, 255)
             y = linear(dequantize(q, s, z, 0, 255).to(bfloat16), w_float, b_float)
             p = quantize(gelu(y), s_p, z_p, 0, 255)

    q: (B, N, K) int8, w_float: (O, K) in the dtype of the model, y: (B, N, O), p: int8. reasons: label of the layer -> why,
    which the report then shows. Products of activations stay, and so does a layer whose codes come from elsewhere than a
    quantiser. A layer norm that only such layers read comes apart, for a compiler to make one kernel of it and what follows.
    """

    reasons: Mapping[str, str]

    def __call__(self, gm: fx.GraphModule) -> PassResult:
        """Run the pass."""
        dtype = model_dtype(gm)
        rule = (Call(INT8_LINEARS, ...), lambda graph, m: self._restore(graph, m, dtype))
        restored = rewrite(gm, (rule,), "restore_float")
        opened = rewrite(restored.graph_module, (_OPEN_NORM,), "restore_float")
        return PassResult(opened.graph_module, restored.modified or opened.modified)

    def _restore(self, graph: fx.Graph, m: Match, dtype: torch.dtype) -> fx.Node | None:
        root = m["root"]
        site, record = linear_site(root), record_of(root)
        if site is None or record is None or record.label not in self.reasons:
            return None
        source = quantizer_behind(site.codes)
        if source is None:
            return None
        product = _float_product(graph, site, source, record, dtype)
        set_record(product, record.left_float(self.reasons[record.label]))
        return _follow(graph, product, site, dtype)


def _float_product(
    graph: fx.Graph, site: LinearSite, source: QuantizerSite, record: Record, dtype: torch.dtype
) -> fx.Node:
    """Build ``linear(dequantize(codes), weight, bias)`` in `dtype`; both constants are what lowering folded, unfolded."""
    scale, depth = tensor_of(site.scale).double(), known_value(site.codes).shape[-1]
    integers = tensor_of(site.weight)[: scale.shape[0], :depth].double()
    zero_point = stored_zero_point(source)
    bias = tensor_of(site.bias).double() + (0 if zero_point is None else scale * zero_point * integers.sum(1))
    if site.weight_zero_point is not None:
        integers = integers - tensor_of(site.weight_zero_point).double()[:, None]
    weight = integers * (scale / tensor_of(source.scale).double())[:, None]
    names = {"weight_float": weight, "bias_float": bias}
    constants = [read_buffer(graph, f"{record.label}.{name}", t.to(dtype)) for name, t in names.items()]
    x = dequantize_node(graph, source, site.codes)
    set_value(x, torch.empty_like(known_value(site.codes), dtype=torch.float32))
    return graph.call_function(F.linear, (cast_node(graph, x, torch.float32, dtype), *constants))


def _follow(graph: fx.Graph, y: fx.Node, site: LinearSite, dtype: torch.dtype) -> fx.Node:
    """Build the steps behind the product."""
    shape = (*known_value(site.codes).shape[:-1], tensor_of(site.scale).shape[0])
    set_value(y, torch.empty(shape, dtype=dtype, device="meta"))
    return steps_behind(graph, cast_node(graph, y, dtype, site.dtype), site)


def _open_norm(graph: fx.Graph, m: Match) -> fx.Node | None:
    root: fx.Node = m["root"]
    return None if any(user.target is not dequantize for user in root.users) else open_norm(graph, root)


_OPEN_NORM: Rule = (Call(layer_norm_quantize, ...), _open_norm)
