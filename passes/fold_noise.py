"""Let the noisy bias cost nothing at run time."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import read_buffer, tensor_of
from fxquant.graph.calls import arguments_of, call_again
from fxquant.graph.match import Call, Match, Var
from fxquant.graph.meta import record_of
from fxquant.graph.rewrite import Rule, rewrite
from fxquant.ops import add_noise, denoise_bias, dequantize, quantize, quantize_twin

_CORRECTION = Call(denoise_bias, Var("bias"), Var("noise"), Call(dequantize, ..., name="weight"))
_AFTER_NORM = Call(add_noise, Call(F.layer_norm, ..., name="norm"), Var("noise"))
_BEFORE_QUANTIZE = Call((quantize, quantize_twin), Call(add_noise, Var("x"), Var("noise")), ...)


def fold_noise(gm: fx.GraphModule) -> PassResult:
    """
    Fold the noise into what is there anyway, and its correction into the bias.

    Before:  q = quantize(add_noise(layer_norm(x, (C,), gamma, beta, eps), noise), s, z, 0, 255)
             y = linear(dequantize(q, ...), dequantize(w_codes, ...), denoise_bias(b, noise, dequantize(w_codes, ...)))
    Becomes: q = quantize(layer_norm(x, (C,), gamma, beta_noisy, eps), s, z, 0, 255)     # beta_noisy = beta + noise
             y = linear(dequantize(q, ...), dequantize(w_codes, ...), bias_denoised)     # constant

    Where anything else reads the layer norm, and after any other operator, the noise joins the quantisation:
    q = quantize(x, s, z, 0, 255, None, noise).
    """
    return rewrite(gm, RULES, "fold_noise")


def _fold_correction(graph: fx.Graph, m: Match) -> fx.Node | None:
    bias, noise, weight = m["bias"], m["noise"], m["weight"]
    read = arguments_of(weight)
    if any(isinstance(a, fx.Node) and a.op != "get_attr" for a in (*read.values(), noise, bias)):
        return None
    values: dict[str, Any] = {name: tensor_of(a) if isinstance(a, fx.Node) else a for name, a in read.items()}
    corrected = denoise_bias(None if bias is None else tensor_of(bias), tensor_of(noise), dequantize(**values))
    records = [record_of(user) for user in m["root"].users]
    label = next((r.label for r in records if r is not None), "denoised")
    return read_buffer(graph, f"{label}.bias_denoised", corrected)


def _fold_into_norm(graph: fx.Graph, m: Match) -> fx.Node | None:
    norm: fx.Node = m["norm"]
    given = arguments_of(norm)
    shape, beta = given["normalized_shape"], given["bias"]
    constant = all(isinstance(a, fx.Node) and a.op == "get_attr" for a in (beta, m["noise"]))
    if len(norm.users) > 1 or not constant or len(shape) != 1 or tensor_of(m["noise"]).dim() != 1:
        return None
    noisy = tensor_of(beta).float() + tensor_of(m["noise"])
    if tensor_of(beta).dtype is not noisy.dtype:
        return None  # rounded to the model's dtype, the noise would be another
    new = read_buffer(graph, f"{beta.target}_noisy", noisy)
    return call_again(graph, norm, bias=new)


def _fold_into_quantize(graph: fx.Graph, m: Match) -> fx.Node | None:
    return call_again(graph, m["root"], x=m["x"], noise=m["noise"])


RULES: tuple[Rule, ...] = (
    (_CORRECTION, _fold_correction),
    (_AFTER_NORM, _fold_into_norm),  # before the last: there the noise costs nothing at all
    (_BEFORE_QUANTIZE, _fold_into_quantize),
)
