"""Turn convolutions of one and three axes, and transposed ones that do not overlap, into those of two, which run on int8."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import bias_of, read_buffer, reads_tensor, tensor_of
from fxquant.graph.match import Call, Match, Var
from fxquant.graph.meta import value_of
from fxquant.graph.rewrite import Rule, rewrite


def spell_convolutions(gm: fx.GraphModule) -> PassResult:
    """
    Spell by conv2d what computes the same.

    Before:  conv1d(x, w, b)                                   # x: (B, C, L), w: (O, C, K)
    Becomes: conv2d(x.unsqueeze(2), w.unsqueeze(2), b).squeeze(2)

    Before:  conv_transpose2d(x, w, b, K)                      # w: (C, O, K, K), the stride is K
    Becomes: pixel_shuffle(conv2d(x, w', b'), K)               # w': (O K K, C, 1, 1)

    Before:  conv3d(x, w, b)                                   # x: (B, C, T, H, W), w: (O, C, K, H', W')
    Becomes: conv2d of the (B T', C K, H, W) windows in time and w as (O, C K, H', W'), back in the shape (B, O, T', H'', W'')

    Stay: convolutions whose weight is no constant, those of three axes with groups or dilation, and transposed ones with
    padding, groups or another stride.
    """
    return rewrite(gm, RULES, "spell_convolutions")


_CONV1D = Call(F.conv1d, Var("x"), Var("weight", where=reads_tensor), ...)
_CONV3D = Call(F.conv3d, Var("x"), Var("weight", where=reads_tensor), ...)
_TRANSPOSED = Call(F.conv_transpose2d, Var("x"), Var("weight", where=reads_tensor), ...)


def _widen(graph: fx.Graph, m: Match) -> fx.Node | None:
    node: fx.Node = m["root"]
    if node.kwargs or _rank(m["x"]) != 3:
        return None
    stride, padding, dilation, groups = _settings(node, (1, 0, 1, 1))
    if isinstance(padding, str) and padding != "valid":
        return None
    row = (0, _single(0 if padding == "valid" else padding))
    weight = read_buffer(graph, f"{m['weight'].target}_2d", tensor_of(m["weight"]).unsqueeze(2))
    args = (
        weight,
        bias_of(node),
        (1, _single(stride)),
        row,
        (1, _single(dilation)),
        *(() if groups == 1 else (groups,)),
    )
    wide = graph.call_method("unsqueeze", (m["x"], 2))
    return graph.call_method("squeeze", (graph.call_function(F.conv2d, (wide, *args)), 2))


def _flatten_time(graph: fx.Graph, m: Match) -> fx.Node | None:
    node, weight = m["root"], tensor_of(m["weight"])
    stride, padding, dilation, groups = _settings(node, (1, 0, 1, 1))
    if node.kwargs or groups != 1 or isinstance(padding, str) or _triple(dilation) != (1, 1, 1) or _rank(m["x"]) != 5:
        return None
    (step, *across), (around, *border) = _triple(stride), _triple(padding)
    frames = graph.call_function(F.pad, (m["x"], (0, 0, 0, 0, around, around))) if around else m["x"]
    windows = graph.call_method("unfold", (frames, 2, weight.shape[2], step))  # (B, C, T', H, W, K)
    count = graph.call_method("size", (windows, 2))
    images = graph.call_method("permute", (windows, 0, 2, 1, 5, 3, 4))
    images = graph.call_method("flatten", (graph.call_method("flatten", (images, 2, 3)), 0, 1))
    flat = read_buffer(graph, f"{m['weight'].target}_2d", weight.flatten(1, 2))
    result = graph.call_function(F.conv2d, (images, flat, bias_of(node), tuple(across), tuple(border)))
    result = graph.call_method("unflatten", (result, 0, (-1, count)))
    return graph.call_method("permute", (result, 0, 2, 1, 3, 4))


def _shuffle(graph: fx.Graph, m: Match) -> fx.Node | None:
    node: fx.Node = m["root"]
    weight, bias = tensor_of(m["weight"]), bias_of(node)
    size = tuple(weight.shape[2:])
    stride, padding, output_padding, groups, dilation = _settings(node, (1, 0, 0, 1, 1))
    plain = (_pair(padding), _pair(output_padding), groups, _pair(dilation)) == ((0, 0), (0, 0), 1, (1, 1))
    square = size[0] == size[1] and _pair(stride) == size
    if node.kwargs or not plain or not square or _rank(m["x"]) != 4 or not (bias is None or reads_tensor(bias)):
        return None
    pointwise = read_buffer(graph, f"{m['weight'].target}_pointwise", _pointwise(weight))
    spread = None
    if bias is not None:
        spread = read_buffer(graph, f"{bias.target}_spread", tensor_of(bias).repeat_interleave(size[0] * size[1]))
    product = graph.call_function(F.conv2d, (m["x"], pointwise) if spread is None else (m["x"], pointwise, spread))
    return graph.call_function(torch.pixel_shuffle, (product, size[0]))


def _pointwise(weight: Tensor) -> Tensor:
    """Return ``(C, O, K, K)`` as the weight ``(O K K, C, 1, 1)`` of a convolution of single pixels."""
    return weight.permute(1, 2, 3, 0).reshape(-1, weight.shape[0], 1, 1).contiguous()


def _settings(node: fx.Node, defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    given = node.args[3:]
    return (*given, *defaults[len(given) :])


def _rank(value: object) -> int | None:
    known = value_of(value)
    return None if known is None else known.dim()


def _single(value: Any) -> int:
    return int(value if isinstance(value, int) else value[0])


def _pair(value: Any) -> tuple[Any, ...]:
    return (value, value) if isinstance(value, int) else tuple(value) * (2 // len(value))


def _triple(value: Any) -> tuple[int, ...]:
    return (value,) * 3 if isinstance(value, int) else tuple(value) * (3 // len(value))


RULES: tuple[Rule, ...] = ((_CONV1D, _widen), (_CONV3D, _flatten_time), (_TRANSPOSED, _shuffle))
