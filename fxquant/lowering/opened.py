"""Fused operators as the single steps that they stand for: a norm, a quantiser, and what follows a product."""

from __future__ import annotations

import operator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import fx

from fxquant.graph.calls import arguments_of, call
from fxquant.graph.meta import known_value, set_value, value_of
from fxquant.lowering.linear_site import LinearSite
from fxquant.lowering.quantizer_site import quantize_node, quantizer_site


def cast_node(graph: fx.Graph, x: fx.Node, found: torch.dtype, wanted: torch.dtype) -> fx.Node:
    """Build `x`, whose dtype is `found`, in the dtype `wanted`; `x` itself where that is the same."""
    if found is wanted:
        return x
    new = graph.call_method("to", (x, wanted))
    set_value(new, torch.empty_like(known_value(x), dtype=wanted))
    return new


def norm_node(graph: fx.Graph, root: fx.Node) -> fx.Node:
    """Build the float32 layer norm inside `root`, which quantises what it normalises ``(..., C)``."""
    given = arguments_of(root)
    x: fx.Node = given["x"]
    known = known_value(x)
    x = cast_node(graph, x, known.dtype, torch.float32)
    parameters = {"weight": given["weight"], "bias": given["bias"], "eps": given["epsilon"]}
    norm = call(graph, F.layer_norm, {"input": x, "normalized_shape": (known.shape[-1],), **parameters})
    set_value(norm, torch.empty_like(known, dtype=torch.float32))
    return norm


def open_norm(graph: fx.Graph, root: fx.Node) -> fx.Node | None:
    """Build ``quantize(layer_norm(x))`` for the `fxquant.ops.layer_norm_quantize` `root`; None where shapes are unknown."""
    site = quantizer_site(root)
    if site is None or value_of(root) is None or value_of(site.source) is None:
        return None
    return quantize_node(graph, replace(site, source=norm_node(graph, root)))


def steps_behind(graph: fx.Graph, y: fx.Node, site: LinearSite) -> fx.Node:
    """Build what follows the product `y` ``(..., O)`` of `site`, in the dtype of the site: GELU, residual and quantiser."""
    if site.gelu is not None:
        y = graph.call_function(F.gelu, (y,), {} if site.gelu == "none" else {"approximate": site.gelu})
    if site.residual is not None:
        y = graph.call_function(operator.add, (site.residual, y))
    if site.quantizer is None:
        return y
    return quantize_node(graph, replace(site.quantizer, source=y))
