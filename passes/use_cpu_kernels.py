"""Run a model on the kernels for x86 processors, with its weights packed once and for all."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import read_buffer, release_tensor, tensor_of
from fxquant.graph.calls import arguments_of, call, call_again, parameters
from fxquant.graph.match import Call, Match
from fxquant.graph.meta import record_of, set_record, value_of
from fxquant.graph.rewrite import Rule, rewrite
from fxquant.kernels import cpu
from fxquant.kernels.activation_table import gelu_table
from fxquant.kernels.cpu.schemas import KERNELS
from fxquant.kernels.quantizer import NO_QUANTIZER
from fxquant.lowering.linear_site import linear_site
from fxquant.lowering.quantized import INT8_LINEARS, factors
from fxquant.lowering.quantizer_site import quantizer_arguments, quantizer_site
from fxquant.ops import (
    attention,
    attention_quantize,
    layer_norm_quantize,
    layer_norm_quantize_tokens,
    quantize,
    quantize_tokens,
    quantize_twin,
)

# What the kernel of linear layers is told where its result stays float.
_NO_CODES = dict(
    zip(("q_scale", "q_zero_point", "q_low", "q_split", "q_noise", "qmin", "qmax"), NO_QUANTIZER, strict=True)
)
_FLOAT_RESULT = {"q_scale": None, "q_zero_point": None, "qmin": 0, "qmax": 0, "noise": None}  # of attention
_FLOATS = (torch.float32, torch.bfloat16)


def use_cpu_kernels(gm: fx.GraphModule) -> PassResult:
    """
    Replace operators by the kernels that compute them, which read packed weights.

    Before:  y = int8_linear_add(q, w_int8, s, b, x, bfloat16, False)
    Becomes: y = cpu_gemm(q, w_packed, compensation, s, None, b, None, x, None, None, None, None, None, 0, 0, True)

    Quantisers of one scale, `layer_norm_quantize` and `attention_quantize` become `cpu_quantize`, `cpu_layer_norm_quantize` and
    `cpu_attention`, and those of a scale per token `cpu_quantize_tokens` and `cpu_layer_norm_quantize_tokens`. The latter codes
    of what a product gives, and GELU between the two, join the product, as `cpu_gemm_tokens`. What the kernels do not take,
    such as an affine weight, stays.
    """
    return rewrite(gm, RULES, "use_cpu_kernels")


def _linear(graph: fx.Graph, m: Match) -> fx.Node | None:
    root = m["root"]
    site, record = linear_site(root), record_of(root)
    if site is None or record is None or site.weight_zero_point is not None:
        return None
    weight, scale = tensor_of(site.weight), tensor_of(site.scale)
    depth = _last_axis(site.codes)
    if depth is None or depth % 4 or site.dtype not in _FLOATS:
        return None
    packed, compensation = cpu.pack(weight, scale.shape[0], depth)
    release_tensor(site.weight)  # a model is packed in the memory of one
    table = (
        None if site.gelu is None else read_buffer(graph, f"{record.label}.gelu_table", gelu_table(site.gelu).clone())
    )
    target, quantizer = KERNELS.cpu_gemm.default, site.quantizer
    product: dict[str, Any] = {
        "codes": site.codes,
        "packed": read_buffer(graph, f"{record.label}.weight_packed", packed),
        "compensation": read_buffer(graph, f"{record.label}.compensation", compensation),
        **{"scale": site.scale, "scale_low": site.low, "bias": site.bias},
        **{"activation": table, "residual": site.residual, "bfloat16": site.dtype is torch.bfloat16},
        **{"row_scale": site.row_scale, "row_zero_point": site.row_zero_point},
    }
    new = call(graph, target, product | (_NO_CODES if quantizer is None else quantizer_arguments(quantizer, target)))
    set_record(new, record)
    return new


def _quantize(graph: fx.Graph, m: Match) -> fx.Node | None:
    site, target = quantizer_site(m["root"]), KERNELS.cpu_quantize.default
    if site is None or not _is_float(site.source) or site.axis is not None or site.noise_per_patch():
        return None
    return call(graph, target, {"x": site.source} | quantizer_arguments(site, target))


def _layer_norm(graph: fx.Graph, m: Match) -> fx.Node | None:
    given = arguments_of(m["root"])
    if not _is_float(given["x"]):
        return None
    wide = {name: _in_float32(graph, given[name]) for name in ("weight", "bias")}
    return call(graph, KERNELS.cpu_layer_norm_quantize.default, given | wide)


def _tokens(graph: fx.Graph, m: Match) -> fx.Node | None:
    given = arguments_of(m["root"])
    return call(graph, KERNELS.cpu_quantize_tokens.default, given) if _is_float(given["x"]) else None


def _product_tokens(graph: fx.Graph, m: Match) -> fx.Node | None:
    """Let the product make the codes of its own rows."""
    root, gemm = m["root"], m["gemm"]
    given, record, target = arguments_of(gemm), record_of(gemm), KERNELS.cpu_gemm_tokens.default
    if len(gemm.users) > 1 or given["q_scale"] is not None or given["residual"] is not None or record is None:
        return None
    product = {name: value for name, value in given.items() if name in parameters(target)}
    new = call(graph, target, product | {name: arguments_of(root)[name] for name in ("symmetric", "qmin", "qmax")})
    set_record(new, record)
    return new


def _layer_norm_tokens(graph: fx.Graph, m: Match) -> fx.Node | None:
    given = arguments_of(m["root"])
    if not _is_float(given["x"]):
        return None
    wide = {name: _in_float32(graph, given[name]) for name in ("weight", "bias")}
    return call(graph, KERNELS.cpu_layer_norm_quantize_tokens.default, given | wide)


def _gelu(graph: fx.Graph, m: Match) -> fx.Node | None:
    """Let the product apply GELU to values that become codes only when all of a row is there."""
    root, gemm = m["root"], m["gemm"]
    given, record = arguments_of(gemm), record_of(gemm)
    readers = {user.target for user in root.users}
    if len(gemm.users) > 1 or readers != {quantize_tokens} or given["q_scale"] is not None or record is None:
        return None
    if given["activation"] is not None or given["residual"] is not None:
        return None
    table = gelu_table(root.kwargs.get("approximate", "none")).clone()
    new = call_again(graph, gemm, activation=read_buffer(graph, f"{record.label}.gelu_table", table))
    set_record(new, record)
    return new


def _attention(graph: fx.Graph, m: Match) -> fx.Node | None:
    root = m["root"]
    given, site, target = arguments_of(root), quantizer_site(root), KERNELS.cpu_attention.default
    known = [value for n in factors(root) if (value := value_of(n)) is not None]
    if len(known) < 3 or not cpu.attends(given["factor"], *known):
        return None
    read = {name: given[name] for name in ("q", "k", "v")} | {"scale": given["factor"]}
    wide = {name: _in_float32(graph, given[name]) for name in ("bias", "mask")}
    quantizer = _FLOAT_RESULT if site is None else quantizer_arguments(site, target)
    new = call(graph, target, read | wide | quantizer)
    record = record_of(root)
    if record is not None:
        set_record(new, record)
    return new


def _in_float32(graph: fx.Graph, node: Any) -> Any:
    """Return a constant in float32, as the kernels read it."""
    if node is None or tensor_of(node).dtype is torch.float32:
        return node
    return read_buffer(graph, f"{node.target}_float32", tensor_of(node).float())


def _last_axis(node: fx.Node) -> int | None:
    value = value_of(node)
    return int(value.shape[-1]) if value is not None else None


def _is_float(node: object) -> bool:
    value = value_of(node)
    return value is not None and value.dtype in _FLOATS


RULES: tuple[Rule, ...] = (
    (Call(INT8_LINEARS, ...), _linear),
    (Call((quantize, quantize_twin), ...), _quantize),
    (Call(layer_norm_quantize, ...), _layer_norm),
    (Call((attention, attention_quantize), ...), _attention),
    (Call(quantize_tokens, ...), _tokens),
    (Call(layer_norm_quantize_tokens, ...), _layer_norm_tokens),
    (Call(F.gelu, Call(KERNELS.cpu_gemm.default, ..., name="gemm"), ...), _gelu),
    (Call(KERNELS.cpu_quantize_tokens.default, Call(KERNELS.cpu_gemm.default, ..., name="gemm"), ...), _product_tokens),
)
