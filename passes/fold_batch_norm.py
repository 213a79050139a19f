"""Fold a batch norm into the convolution or linear layer before it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import bias_of, read_buffer, reads_tensor, tensor_of
from fxquant.graph.match import Call, Match
from fxquant.graph.meta import value_of
from fxquant.graph.rewrite import Rule, rewrite

_CHANNELS: dict[Any, int] = {F.conv2d: 0, F.conv1d: 0, F.linear: 0, F.conv_transpose2d: 1}  # the axis of weight


def fold_batch_norm(gm: fx.GraphModule) -> PassResult:
    """
    Fold batch norms with running statistics into the layer that alone they read.

    Before:  batch_norm(conv2d(x, w, b), mean, var, gamma, beta, False, 0.1, eps)
    Becomes: conv2d(x, w * g, (b - mean) * g + beta)          # g = gamma / sqrt(var + eps), per output channel

    Layers: convolutions of one and two axes, transposed ones without groups, and linear layers whose result is ``(B, C)``.
    """
    return rewrite(gm, RULES, "fold_batch_norm")


_LAYER = Call(tuple(_CHANNELS), ..., name="layer")
_NORM = Call(F.batch_norm, _LAYER, ...)


def _fold(graph: fx.Graph, m: Match) -> fx.Node | None:
    layer, given = m["layer"], inspect.signature(F.batch_norm).bind(*m["root"].args, **m["root"].kwargs)
    given.apply_defaults()
    norm = given.arguments
    constants = [norm[name] for name in ("running_mean", "running_var", "weight", "bias")]
    optional = [layer.args[1], *(c for c in (*constants[2:], bias_of(layer)) if c is not None)]
    if norm["training"] or len(layer.users) > 1 or not all(map(reads_tensor, (*constants[:2], *optional))):
        return None
    if not _has_channels(layer):
        return None
    weight, bias = _folded(layer, [None if c is None else tensor_of(c) for c in constants], norm["eps"])
    name = str(layer.args[1].target)
    new_weight, new_bias = (
        read_buffer(graph, f"{name}_{kind}", t) for kind, t in (("folded", weight), ("shift", bias))
    )
    return graph.create_node(
        "call_function", layer.target, (layer.args[0], new_weight, new_bias, *layer.args[3:]), layer.kwargs
    )


def _has_channels(layer: fx.Node) -> bool:
    """Say whether axis 1 of the result is that of the output channels, one per entry of a batch norm."""
    if layer.kwargs or len(layer.args) < 2:
        return False
    if layer.target is F.linear:
        value = value_of(layer)
        return value is not None and value.dim() == 2
    groups = layer.args[6] if layer.target is F.conv_transpose2d and len(layer.args) > 6 else 1
    return bool(groups == 1)


def _folded(layer: fx.Node, statistics: list[Tensor | None], eps: float) -> tuple[Tensor, Tensor]:
    mean, variance, gamma, beta = (None if t is None else t.detach().double() for t in statistics)
    if mean is None or variance is None:
        raise RuntimeError("expected running statistics")
    factor = torch.rsqrt(variance + eps) * (1.0 if gamma is None else gamma)
    weight, bias = tensor_of(layer.args[1]).detach(), bias_of(layer)
    shift = -mean if bias is None else tensor_of(bias).detach().double() - mean
    shape = [1] * weight.dim()
    shape[_CHANNELS[layer.target]] = -1
    folded = (weight.double() * factor.reshape(shape)).to(weight.dtype)
    return folded, (shift * factor + (0.0 if beta is None else beta)).to(weight.dtype)


RULES: tuple[Rule, ...] = ((_NORM, _fold),)
