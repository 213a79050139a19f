"""Operands of float8 codes: what they read, and how a graph comes to have them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx

from fxquant.config.float8 import Float8
from fxquant.config.kinds import kind_of
from fxquant.graph.attributes import read_buffer, tensor_of
from fxquant.graph.calls import arguments_of, call
from fxquant.graph.meta import provenance, set_value, value_of
from fxquant.numerics import float8
from fxquant.numerics.granularity import PerToken
from fxquant.observers.base import Observer
from fxquant.ops import dequantize_float8, quantize_float8, quantize_float8_tokens


class Float8Site(NamedTuple):
    """
    Codes of any shape and their scale, by the names of `fxquant.ops.dequantize_float8`.

    The scale is a constant: 0-dim, or one per index of `axis`; or it was computed with the codes, one for each row.
    """

    codes: fx.Node
    scale: fx.Node
    axis: int | None

    @property
    def per_token(self) -> bool:
        """Whether the scales are those of rows, which are known at run time."""
        return self.scale.op != "get_attr"

    @property
    def undoes(self) -> bool:
        """Whether codes that the graph makes are read with the scale, and the axis, that they were made with."""
        if self.codes.target is quantize_float8:
            made = arguments_of(self.codes)
            return (made["scale"], made["axis"]) == (self.scale, self.axis)
        if not self.per_token:
            return True
        parts = [node.args if node.target is operator.getitem else (None, None) for node in (self.codes, self.scale)]
        (maker, first), (other, second) = parts
        known = isinstance(maker, fx.Node) and maker.target is quantize_float8_tokens
        return known and maker is other and (first, second) == (0, 1)


def float8_site(value: object) -> Float8Site | None:
    """Return what a call of `dequantize_float8` reads, None for any other value."""
    if not isinstance(value, fx.Node) or value.target is not dequantize_float8:
        return None
    return Float8Site(**arguments_of(value))


def float8_operand(graph: fx.Graph, source: fx.Node, observer: Observer) -> tuple[fx.Node, fx.Node]:
    """Build the codes of `source` as `observer` found them, and what they stand for; a constant becomes codes here."""
    spec = cast(Float8, observer.spec)
    quantize, dequantize = kind_of(spec).operators(spec)
    if isinstance(spec.granularity, PerToken):
        codes, scale = _tokens(graph, source, quantize)
        return codes, call(graph, dequantize, {"codes": codes, "scale": scale})
    params = observer.calculate_qparams()
    if source.op == "get_attr":
        params = observer.per_row(params, tensor_of(source))
        values = observer.quantized_from(tensor_of(source))
        codes = read_buffer(
            graph, f"{observer.operand}_codes", float8.quantize_float8(values, params.scale, params.axis)
        )
        set_value(codes, tensor_of(codes).to("meta"))
    found = {"scale": read_buffer(graph, f"{observer.operand}_scale", params.scale), "axis": params.axis}
    if source.op != "get_attr":
        codes = call(graph, quantize, {"x": source} | found)
        _know(codes, value_of(source), float8.DTYPE)
    return codes, call(graph, dequantize, {"codes": codes} | found)


def _tokens(graph: fx.Graph, source: fx.Node, quantize: Callable[..., Any]) -> tuple[fx.Node, fx.Node]:
    made = call(graph, quantize, {"x": source})
    codes, scale = (graph.call_function(operator.getitem, (made, index)) for index in range(2))
    values = value_of(source)
    _know(codes, values, float8.DTYPE)
    _know(scale, None if values is None else values[..., :1], torch.float32)
    for node in (made, scale):
        provenance(node, source)
    return codes, scale


def _know(node: fx.Node, like: Tensor | None, dtype: torch.dtype) -> None:
    if like is not None:
        set_value(node, torch.empty_like(like, dtype=dtype, device="meta"))
