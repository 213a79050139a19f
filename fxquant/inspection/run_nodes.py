"""Run a graph node by node, and read what its nodes give as the real numbers that it stands for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.graph.attributes import called_module, tensor_of
from fxquant.graph.calls import arguments_of
from fxquant.lowering.quantizer_site import QuantizerSite, quantizer_arguments, quantizer_site
from fxquant.lowering.token_site import TOKEN_QUANTIZERS
from fxquant.numerics import float8
from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder
from fxquant.ops import (
    dequantize,
    dequantize_float8,
    dequantize_tokens,
    dequantize_twin,
    quantize_float8,
    quantize_float8_tokens,
)


def run_nodes(gm: fx.GraphModule, inputs: Sequence[Tensor]) -> Iterator[tuple[fx.Node, Mapping[fx.Node, Any]]]:
    """
    Yield each node of `gm` in order, with the values for `inputs` that it has: its own, those it reads, and what is read later.

    Observers of a prepared graph see nothing of it: what they read passes by them.
    """
    run = _PastObservers(gm)
    run.args_iter = iter(inputs)
    for node in gm.graph.nodes:
        with torch.no_grad():  # not around the loop, whose body is the caller's
            run.env[node] = run.run_node(node)
        yield node, run.env
        for unread in run.user_to_last_uses.get(node, ()):
            del run.env[unread]


def real_value(node: fx.Node, value: object) -> Tensor | None:
    """
    Return what `node` gave as float tensor: codes are dequantised, and noise that was added to them is taken off.

    None for what is no tensor of real numbers, and for codes whose scale is none of the node's own.
    """
    if node.target in TOKEN_QUANTIZERS and isinstance(value, tuple):
        return dequantize_tokens(*value)
    if node.target is quantize_float8_tokens and isinstance(value, tuple):
        return dequantize_float8(*value)
    if not isinstance(value, Tensor):
        return None
    if value.dtype is float8.DTYPE:
        given = arguments_of(node) if node.target is quantize_float8 else None
        return None if given is None else dequantize_float8(value, tensor_of(given["scale"]), given["axis"])
    if value.is_floating_point():
        return value
    site = quantizer_site(node) if value.dtype is torch.int8 else None
    return None if site is None else _dequantized(site, value)


def gives_codes(node: fx.Node) -> bool:
    """Say whether `node` makes codes of real numbers."""
    reads = (dequantize, dequantize_twin)
    if node.target in (quantize_float8, quantize_float8_tokens):
        return True
    return node.target in TOKEN_QUANTIZERS or (node.target not in reads and quantizer_site(node) is not None)


def _dequantized(site: QuantizerSite, codes: Tensor) -> Tensor:
    target: Any = dequantize if site.low is None else dequantize_twin
    arguments = quantizer_arguments(replace(site, noise=None), target)
    found: dict[str, Any] = {
        name: tensor_of(value) if isinstance(value, fx.Node) else value for name, value in arguments.items()
    }
    values: Tensor = target(codes, **found)
    return values if site.noise is None or site.noise_per_patch() else values - tensor_of(site.noise)


class _PastObservers(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        if isinstance(called_module(n), Observer | InputRecorder):
            return self.env[n.args[0]]  # type: ignore[index]
        return super().run_node(n)
