"""Undo lowering: let int8 products be float products of what the codes stand for."""

from __future__ import annotations

import operator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import read_buffer, tensor_of
from fxquant.graph.calls import arguments_of, call
from fxquant.graph.match import Call, Match
from fxquant.graph.meta import clear_record, known_value, record_of, set_record, set_value
from fxquant.graph.rewrite import Rule, rewrite
from fxquant.lowering.linear_site import LinearSite, linear_site
from fxquant.lowering.opened import cast_node, norm_node, open_norm, steps_behind
from fxquant.lowering.quantized import INT8_LINEARS, stored_zero_point
from fxquant.lowering.quantizer_site import (
    QuantizerSite,
    dequantize_node,
    quantize_node,
    quantizer_behind,
    quantizer_site,
)
from fxquant.ops import (
    attention,
    attention_quantize,
    dequantize,
    dequantize_tokens,
    extract_patches,
    int8_matmul,
    int8_matmul_twin,
    layer_norm_quantize,
    layer_norm_quantize_tokens,
    quantize_tokens,
)


def simulate_products(gm: fx.GraphModule) -> PassResult:
    """
    Give an int8 graph the form that ``fxquant.convert(prepared, target="fake")`` has, for programs that know no int8 products.

    Before:  q = layer_norm_quantize(x, gamma, beta, 1e-06, s, z, 0, 255)
             p = int8_linear_gelu_quantize(q, w_int8, s_w, b, "none", float32, False, s_p, z_p, 0, 255)
    Becomes: q = quantize(layer_norm(x, (C,), gamma, beta, 1e-06), s, z, 0, 255)
             y = linear(dequantize(q, s, z, 0, 255), dequantize(w_int8, s_w / s, None, -128, 127, 0), b_float)
             p = quantize(gelu(y), s_p, z_p, 0, 255)

    q: (B, N, K) int8, w_int8: (O, K) without padding, y: (B, N, O), p: int8. The codes are those of the int8 graph, but for
    ties: the sums are the same up to their rounding in float32. Patches and their product become a convolution, and fused
    attention that of torch. Codes of a table, as AdaLog has them, are read as they are stored.
    """
    return rewrite(gm, RULES, "simulate_products")


def _linear(graph: fx.Graph, m: Match) -> fx.Node | None:
    root = m["root"]
    site = linear_site(root)
    if site is None:
        return None
    source = quantizer_behind(site.codes)
    if source is None and site.row_scale is None:
        source = _unknown(graph, root, site.codes, torch.ones(()))
    is_convolution = site.codes.target is extract_patches
    read = arguments_of(site.codes)["codes"] if is_convolution else site.codes
    x = _token_values(graph, site) if source is None else _values(graph, read, source)
    operands = (x, *_weight_and_bias(graph, root, site, source))
    if is_convolution:
        y = _convolution(graph, site.codes, *operands)
    else:
        y = graph.call_function(F.linear, operands if operands[-1] is not None else operands[:-1])
    record = record_of(root)
    if record is not None:
        set_record(y, record)
    shape = (*known_value(site.codes).shape[:-1], tensor_of(site.scale).shape[0])
    if is_convolution:
        y = graph.call_method("permute", (y, 0, 2, 3, 1))
    set_value(y, torch.empty(shape, device="meta"))
    return _replacing(root, steps_behind(graph, cast_node(graph, y, torch.float32, site.dtype), site))


def _weight_and_bias(
    graph: fx.Graph, root: fx.Node, site: LinearSite, source: QuantizerSite | None
) -> tuple[fx.Node, fx.Node | None]:
    """Build the dequantised weight ``(O, K)`` or ``(O, C, kh, kw)``, and the bias ``(O,)``; None for one of zeros."""
    scale, bias, depth = tensor_of(site.scale), tensor_of(site.bias), known_value(site.codes).shape[-1]
    codes, own = tensor_of(site.weight)[: scale.shape[0], :depth], scale
    if source is not None:
        own = (scale.double() / tensor_of(source.scale).double()).float()
        zero_point = stored_zero_point(source) if source.low is None else None
        if zero_point is not None:
            # Rounded as `fold_epilogue` rounds it, so that a layer without a bias has none again.
            bias = (bias.double() + ((zero_point * codes.double().sum(1)).float() * scale).double()).float()
    if site.codes.target is extract_patches:
        given = arguments_of(site.codes)
        codes = codes.reshape(codes.shape[0], -1, *given["kernel"])
    label = _label(root)
    parts: dict[str, Tensor] = {"weight_codes": codes.contiguous(), "weight_scale": own}
    read = {name: read_buffer(graph, f"{label}.{name}", value) for name, value in parts.items()}
    arguments = {"codes": read["weight_codes"], "scale": read["weight_scale"], "zero_point": site.weight_zero_point}
    weight = call(graph, dequantize, {**arguments, "qmin": -128, "qmax": 127, "axis": 0})
    set_value(weight, torch.empty_like(codes, dtype=torch.float32, device="meta"))
    return weight, read_buffer(graph, f"{label}.bias", bias) if bool(bias.any()) else None


def _convolution(graph: fx.Graph, patches: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None) -> fx.Node:
    given = arguments_of(patches)
    y = graph.call_function(F.conv2d, (x, weight, bias, given["stride"], given["padding"]))
    batch, height, width, _ = known_value(patches).shape
    set_value(y, torch.empty((batch, known_value(weight).shape[0], height, width), device="meta"))
    return y


def _values(graph: fx.Graph, codes: fx.Node, source: QuantizerSite) -> fx.Node:
    x = dequantize_node(graph, source, codes)
    set_value(x, torch.empty_like(known_value(codes), dtype=torch.float32))
    return x


def _token_values(graph: fx.Graph, site: LinearSite) -> fx.Node:
    x = graph.call_function(dequantize_tokens, (site.codes, site.row_scale, site.row_zero_point))
    set_value(x, torch.empty_like(known_value(site.codes), dtype=torch.float32))
    return x


def _matmul(graph: fx.Graph, m: Match) -> fx.Node | None:
    root = m["root"]
    given = arguments_of(root)
    total = tensor_of(given["scale"] if "scale" in given else given["high"])
    sources = {name: quantizer_behind(given[name]) for name in "ab"}
    operands = []
    for name, other in (("a", "b"), ("b", "a")):
        source = sources[name]
        if source is None:
            known = sources[other]
            scale = total if known is None else total.flatten() / tensor_of(known.scale)
            source = _unknown(graph, root, given[name], scale, given.get(f"{name}_zero_point"))
            sources[name] = source
        axis = None if source.axis is None else known_value(given[name]).dim() - total.dim()
        operands.append((given[name], replace(source, axis=axis)))
    y = graph.call_function(torch.matmul, tuple(_values(graph, *operand) for operand in operands))
    record = record_of(root)
    if record is not None:
        set_record(y, record)
    set_value(y, torch.empty_like(known_value(root), dtype=torch.float32))
    return _replacing(root, cast_node(graph, y, torch.float32, given["dtype"]))


def _unknown(
    graph: fx.Graph, root: fx.Node, codes: fx.Node, scale: Tensor, zero_point: fx.Node | None = None
) -> QuantizerSite:
    """Return how to read codes of a table: by one `scale`, which is known from that of the product, (H,) times over or not."""
    read = read_buffer(graph, f"{_label(root)}.scale_of_{codes.name}", scale.flatten()[0].float())
    return QuantizerSite(codes, read, zero_point, None, None, None, -128, 127)


def _attention(graph: fx.Graph, m: Match) -> fx.Node | None:
    root = m["root"]
    given = arguments_of(root)
    q, k, v, bias, mask = (given[name] for name in ("q", "k", "v", "bias", "mask"))
    shape = known_value(q).shape
    addends = []
    if bias is not None:
        addends.append(_addend(graph, root, "bias", tensor_of(bias)[None], q))  # (1, H, N, M)
    if mask is not None:
        addends.append(_addend(graph, root, "mask", tensor_of(mask)[:, None], q))  # (W, 1, N, M)
        # Image b reads mask b % W: the windows of an image become an axis.
        windows = len(tensor_of(mask))
        q, k, v = (graph.call_method("unflatten", (x, 0, (-1, windows))) for x in (q, k, v))
    arguments = [q, k, v]
    if addends:
        arguments.append(addends[0] if len(addends) == 1 else graph.call_function(operator.add, tuple(addends)))
    y = graph.call_function(F.scaled_dot_product_attention, tuple(arguments), {"scale": given["factor"]})
    record = record_of(root)
    if record is not None:
        set_record(y, record)
    if mask is not None:
        y = graph.call_method("flatten", (y, 0, 1))
    merged = graph.call_method("flatten", (graph.call_method("transpose", (y, 1, 2)), 2))
    dtype = known_value(given["q"]).dtype
    depth = shape[1] * known_value(given["v"]).shape[3]
    set_value(merged, torch.empty((shape[0], shape[2], depth), dtype=dtype, device="meta"))
    site = quantizer_site(root)
    return _replacing(root, merged if site is None else quantize_node(graph, replace(site, source=merged)))


def _addend(graph: fx.Graph, root: fx.Node, name: str, values: Tensor, like: fx.Node) -> fx.Node:
    return read_buffer(graph, f"{_label(root)}_{name}", values.to(known_value(like).dtype))


def _norm(graph: fx.Graph, m: Match) -> fx.Node | None:
    return open_norm(graph, m["root"])


def _token_norm(graph: fx.Graph, m: Match) -> fx.Node | None:
    given = arguments_of(m["root"])
    names = ("symmetric", "qmin", "qmax")
    return call(graph, quantize_tokens, {"x": norm_node(graph, m["root"]), **{name: given[name] for name in names}})


def _replacing(root: fx.Node, new: fx.Node) -> fx.Node:
    """Return `new`, which stands where `root` did; the record is that of the product, which may be another node."""
    if record_of(new) is None:
        clear_record(new)
    return new


def _label(root: fx.Node) -> str:
    record = record_of(root)
    return root.name if record is None else record.label


RULES: tuple[Rule, ...] = (
    (Call(layer_norm_quantize, ...), _norm),
    (Call(layer_norm_quantize_tokens, ...), _token_norm),
    (Call((attention, attention_quantize), ...), _attention),
    (Call((int8_matmul, int8_matmul_twin), ...), _matmul),
    (Call(INT8_LINEARS, ...), _linear),
)
