"""Which nodes of two graphs of one model give the same values."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import fx

from fxquant.graph.calls import arguments_of, operator_name
from fxquant.graph.dataflow import moves_values
from fxquant.graph.meta import Product, module_path, record_of
from fxquant.graph.products import product_of
from fxquant.kernels.cpu.schemas import KERNELS
from fxquant.ops import int8_linear_add, int8_linear_twin_add, int8_matmul, int8_matmul_twin

# An operator -> the float operator whose result it gives. One that fuses several gives the result of the last.
_RESULTS = {
    **dict.fromkeys(("int8_linear", "int8_linear_twin", "onednn_linear", "float8_linear"), "linear"),
    **dict.fromkeys(("int8_linear_add", "int8_linear_twin_add"), "add"),
    **dict.fromkeys(("int8_linear_gelu_quantize", "int8_linear_gelu_quantize_twin"), "gelu"),
    **dict.fromkeys(("layer_norm_quantize", "layer_norm_quantize_tokens", "integer_layer_norm"), "layer_norm"),
    **dict.fromkeys(("scaled_dot_product_attention", "attention_quantize"), "attention"),
}
_WITH_RESIDUAL = (int8_linear_add, int8_linear_twin_add, KERNELS.cpu_gemm.default)
_GEMMS = (KERNELS.cpu_gemm.default, KERNELS.cpu_gemm_tokens.default)
_MATMULS = (torch.matmul, int8_matmul, int8_matmul_twin)
_OF_MATMUL = {Product.QK: "scores", Product.PV: "attention"}


def links(reference: fx.Graph, other: fx.Graph, alone: bool = False) -> dict[fx.Node, fx.Node]:
    """
    Return for nodes of `other` the node of `reference` that gives the same values, before anything was rounded.

    alone: a product that adds a residual is linked to the product, not to the sum.

    Two nodes correspond where they come from the same module and give the result of the same operator. Of several the order
    decides; where one graph has more of them than the other nothing is linked.
    """
    one, two = _results(reference, alone), _results(other, alone)
    return {
        node: known
        for key, nodes in two.items()
        if len(one[key]) == len(nodes)
        for node, known in zip(nodes, one[key], strict=True)
    }


def result_of(node: fx.Node) -> str | None:
    """Return the name of the float operator whose result `node` gives, None where it computes nothing of its own."""
    if node.op not in ("call_function", "call_method"):
        return None
    if moves_values(node):
        return "conv2d" if record_of(node) is not None else None  # the last of what a convolution is lowered to
    if node.target in _GEMMS:
        given = arguments_of(node)
        return "add" if residual_of(node) is not None else "linear" if given["activation"] is None else "gelu"
    if node.target in _MATMULS:
        record = record_of(node)
        return _OF_MATMUL.get(record.product if record is not None else product_of(node), "matmul")
    name = operator_name(node).removeprefix("cpu_")
    return _RESULTS.get(name, name)


def residual_of(node: fx.Node) -> fx.Node | None:
    """Return what a product adds to its result, None where it adds nothing or `node` is none."""
    residual = arguments_of(node)["residual"] if node.target in _WITH_RESIDUAL else None
    return residual if isinstance(residual, fx.Node) else None


def _results(graph: fx.Graph, alone: bool) -> defaultdict[tuple[str, str], list[fx.Node]]:
    found = defaultdict[tuple[str, str], list[fx.Node]](list)
    for node in graph.nodes:
        record, result = record_of(node), result_of(node)
        if alone and record is not None and residual_of(node) is not None:
            found[record.module, "linear"].append(node)
        elif result is not None:
            found[module_path(node), result].append(node)
    return found
