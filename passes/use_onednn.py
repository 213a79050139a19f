"""Run chosen int8 linear layers, and the GELU behind them, by oneDNN on x86 processors."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.calls import call
from fxquant.graph.match import Call, Match
from fxquant.graph.meta import record_of, set_record, set_value, value_of
from fxquant.graph.rewrite import rewrite
from fxquant.lowering.linear_site import linear_site
from fxquant.lowering.quantized import INT8_LINEARS
from fxquant.lowering.quantizer_site import quantize_node
from fxquant.ops.onednn_linear import DTYPES, GELU_ALGORITHMS, onednn_linear


@dataclass(frozen=True)
class UseOnednn:
    """
    Replace the int8 linear layers called `labels` by oneDNN's kernel, which also scales, adds the bias and applies GELU.

    Before:  y = int8_linear_gelu_quantize(q, w_int8, s, b, "none", float32, False, s_y, z_y, 0, 255)
    Becomes: y = quantize(onednn_linear(q, w_int8, s, b, float32, "none"), s_y, z_y, 0, 255)

    q: (B, N, K) int8, w_int8: (O, K) int8, y: (B, N, O). An affine weight, an input that is twin-uniform or has
    a scale per token, and a float16 result keep their operator.
    """

    labels: frozenset[str]

    def __call__(self, gm: fx.GraphModule) -> PassResult:
        """Run the pass."""
        return rewrite(gm, ((Call(INT8_LINEARS, ...), self._replace),), "use_onednn")

    def _replace(self, graph: fx.Graph, m: Match) -> fx.Node | None:
        root: fx.Node = m["root"]
        site, record = linear_site(root), record_of(root)
        if site is None or record is None or record.label not in self.labels:
            return None
        if site.weight_zero_point is not None or site.low is not None or site.row_scale is not None:
            return None
        if site.dtype not in DTYPES or site.gelu not in GELU_ALGORITHMS:
            return None
        names = ("codes", "weight", "scale", "bias", "dtype", "gelu")
        product = call(graph, onednn_linear, {name: getattr(site, name) for name in names})
        set_record(product, record)
        value = value_of(root)
        set_value(product, value)
        if site.residual is not None:
            return graph.call_function(operator.add, (site.residual, product))
        if site.quantizer is None:
            return product
        set_value(product, None if value is None else value.to(site.dtype))
        return quantize_node(graph, replace(site.quantizer, source=product), spelled_out=True)
