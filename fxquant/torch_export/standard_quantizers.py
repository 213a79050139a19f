"""The quantisers of a fake-quantised graph by `torch.ops.quantized_decomposed`, the operators that PT2E's backends look for."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # which defines the operators
from torch import fx

from fxquant.errors import UnsupportedGraphError
from fxquant.graph.attributes import read_buffer, reads_tensor, tensor_of
from fxquant.graph.calls import arguments_of, operator_name
from fxquant.graph.match import Call, Match
from fxquant.graph.meta import known_value, module_path, value_of
from fxquant.graph.rewrite import Rule, rewrite
from fxquant.lowering.quantizer_site import QuantizerSite, quantizer_site
from fxquant.numerics.arithmetic import storage_offset
from fxquant.ops import (
    add_noise,
    dequantize,
    dequantize_tokens,
    fake_quantize_adalog,
    fake_quantize_summed_twin,
    integer_layer_norm,
    interpolate_scaled,
    log_int_softmax,
    quantize,
    quantize_adalog,
    quantize_float8,
    quantize_float8_tokens,
    quantize_log2,
    quantize_tokens,
    quantize_twin,
)

_STANDARD = torch.ops.quantized_decomposed
_TOKENS = (-128, 127, torch.int8)  # the only codes that choose_qparams_per_token_asymmetric knows
# What has no counterpart among the standard operators.
_OTHERS = (
    *(quantize_twin, fake_quantize_summed_twin, quantize_log2, log_int_softmax, quantize_adalog, fake_quantize_adalog),
    *(integer_layer_norm, interpolate_scaled, quantize_float8, quantize_float8_tokens),
)


def standard_quantizers(gm: fx.GraphModule, activations: torch.dtype) -> None:
    """
    Put standard quantisers in the place of those of `fxquant.ops`; activations: int8 or uint8, in which codes of values lie.

    Before:  q = quantize(x, s, z, 0, 255)
             y = linear(dequantize(q, s, z, 0, 255), dequantize(w_codes, s_w, None, -128, 127, 0))
    Becomes: q = quantize_per_tensor(x, 0.02, 3 - 128, -128, 127, int8)
             y = linear(dequantize_per_tensor(q, 0.02, 3 - 128, -128, 127, int8),
                        dequantize_per_channel(w_codes, s_w, zeros, 0, -128, 127, int8))

    Raises `UnsupportedGraphError` naming each quantiser that no standard operator computes.
    """
    refuse_others(gm)
    rules: tuple[Rule, ...] = (
        (Call((quantize, dequantize), ...), lambda graph, m: _uniform(graph, m["root"], activations)),
        (Call(quantize_tokens, ...), _tokens),
        (Call(dequantize_tokens, ...), _token_values),
    )
    rewrite(gm, rules, "standard_quantizers")


def refuse_others(gm: fx.GraphModule) -> None:
    """Raise `UnsupportedGraphError` naming each quantiser of a graph that no standard operator computes."""
    found = [n for n in gm.graph.nodes if n.target in _OTHERS or (n.target is quantize_tokens and not _is_standard(n))]
    if found:
        lines = "\n".join(f"  {n.name}, in module {module_path(n) or 'the root'}: {operator_name(n)}" for n in found)
        raise UnsupportedGraphError(
            f"expected uniform codes, and scales per token for 8 bits with a zero point alone, as quantized_decomposed knows "
            f"no others, found:\n{lines}\nQuantise these values by another recipe, or with other options of it"
        )


def _is_standard(tokens: fx.Node) -> bool:
    given = arguments_of(tokens)
    return (given["symmetric"], given["qmin"], given["qmax"]) == (False, 0, 255)


def _uniform(graph: fx.Graph, node: fx.Node, activations: torch.dtype) -> fx.Node | None:
    site = quantizer_site(node)
    if site is None:
        return None
    dtype = torch.int8 if reads_tensor(site.source) else activations
    offset = -storage_offset(site.qmax) if dtype is torch.int8 else 128 if site.qmin < 0 else 0
    limits = (site.qmin + offset, site.qmax + offset, dtype)
    source, scale = site.source, tensor_of(site.scale)
    if node.target is quantize:
        source = _float32(graph, source if site.noise is None else graph.call_function(add_noise, (source, site.noise)))
    kind = "quantize" if node.target is quantize else "dequantize"
    if site.axis is None or scale.dim() == 0:
        zero_point = 0 if site.zero_point is None else int(tensor_of(site.zero_point))
        per_tensor = getattr(_STANDARD, f"{kind}_per_tensor").default
        return graph.call_function(per_tensor, (source, float(scale), zero_point + offset, *limits))
    per_channel = getattr(_STANDARD, f"{kind}_per_channel").default
    zero_points = read_buffer(graph, f"{site.scale.target}_zero_points", _zero_points(site) + offset)
    return graph.call_function(per_channel, (source, site.scale, zero_points, _axis(site), *limits))


def _zero_points(site: QuantizerSite) -> torch.Tensor:
    if site.zero_point is None:
        return torch.zeros_like(tensor_of(site.scale), dtype=torch.int64)
    return tensor_of(site.zero_point).long()


def _axis(site: QuantizerSite) -> int:
    axis: Any = site.axis
    return axis if axis >= 0 else axis + known_value(site.source).dim()  # type: ignore[no-any-return]


def _tokens(graph: fx.Graph, m: Match) -> fx.Node:
    root = m["root"]
    x = _float32(graph, arguments_of(root)["x"])
    found = graph.call_function(_STANDARD.choose_qparams_per_token_asymmetric.default, (x, torch.int8))
    scale, zero_point = (graph.call_function(operator.getitem, (found, i)) for i in range(2))
    codes = graph.call_function(_STANDARD.quantize_per_token.default, (x, scale, zero_point, *_TOKENS))
    for part in list(root.users):
        part.replace_all_uses_with((codes, scale, zero_point)[part.args[1]])
        graph.erase_node(part)
    return codes


def _token_values(graph: fx.Graph, m: Match) -> fx.Node:
    given = arguments_of(m["root"])
    arguments = (given["codes"], given["scale"], given["zero_point"], *_TOKENS, torch.float32)
    return graph.call_function(_STANDARD.dequantize_per_token.default, arguments)


def _float32(graph: fx.Graph, x: fx.Node) -> fx.Node:
    value = value_of(x)
    return x if value is None or value.dtype is torch.float32 else graph.call_method("float", (x,))
