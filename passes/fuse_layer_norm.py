"""Let layer norms give codes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.calls import arguments_of, call
from fxquant.graph.match import Call, Match, Var
from fxquant.graph.meta import value_of
from fxquant.graph.rewrite import Rule, rewrite
from fxquant.lowering.quantizer_site import quantizer_arguments, quantizer_site
from fxquant.ops.layer_norm_quantize import layer_norm_quantize, layer_norm_quantize_tokens
from fxquant.ops.quantize import quantize
from fxquant.ops.tokens import quantize_tokens

_NORM = Call(
    F.layer_norm,
    Var("x"),
    Var("shape", where=lambda shape: len(shape) == 1),
    Var("weight", optional=True),
    Var("bias", optional=True),
    Var("epsilon", optional=True),
    name="norm",
)


def fuse_layer_norm(gm: fx.GraphModule) -> PassResult:
    """
    Put the quantiser into the layer norm before it, which computes in float32.

    Before:  q = quantize(layer_norm(x.to(float32), (C,), w, b, 1e-06), s, z, 0, 255)
    Becomes: q = layer_norm_quantize(x, w, b, 1e-06, s, z, 0, 255)

    x: (..., C) of any float dtype, q: (..., C) int8. quantize_tokens, which gives a scale per token with its codes, becomes
    layer_norm_quantize_tokens. Where anything else reads the norm, as where two layers quantise it
    differently, or where it is not float32, both stay.
    """
    return rewrite(gm, RULES, "fuse_layer_norm")


def _fuse(graph: fx.Graph, m: Match) -> fx.Node | None:
    site = quantizer_site(m["root"])
    normed = _normed(m)
    if normed is None or site is None or site.axis is not None or site.noise_per_patch():
        return None
    return call(graph, layer_norm_quantize, normed | quantizer_arguments(site, layer_norm_quantize))


def _fuse_tokens(graph: fx.Graph, m: Match) -> fx.Node | None:
    normed, given = _normed(m), arguments_of(m["root"])
    given.pop("x")
    return None if normed is None else call(graph, layer_norm_quantize_tokens, normed | given)


def _normed(m: Match) -> dict[str, Any] | None:
    """Return the arguments of a fused norm, None where the norm has to stay."""
    norm, x = m["norm"], m["x"]
    value = value_of(norm)
    if len(norm.users) > 1 or value is None or value.dtype is not torch.float32:
        return None
    if isinstance(x, fx.Node) and x.target == "to" and x.args[1:] == (torch.float32,):
        x = x.args[0]
    epsilon = 1e-5 if m["epsilon"] is None else m["epsilon"]
    return {"x": x, "weight": m["weight"], "bias": m["bias"], "epsilon": epsilon}


RULES: tuple[Rule, ...] = (
    (Call(quantize, _NORM, ...), _fuse),
    (Call(quantize_tokens, _NORM, ...), _fuse_tokens),
)
