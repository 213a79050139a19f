"""What a layer norm on integers reads: codes behind moves, and for each channel its factor and zero point."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.graph.attributes import tensor_of
from fxquant.graph.calls import arguments_of
from fxquant.graph.dataflow import moves_values
from fxquant.graph.meta import known_value, set_value, value_of
from fxquant.lowering.quantized import quantized
from fxquant.numerics.arithmetic import along

_RESHAPES = ("reshape", "view", "flatten", "unflatten", "contiguous", torch.flatten, torch.reshape)
_PERMUTES = ("permute", "transpose", torch.permute, torch.transpose)


class IntegerInput(NamedTuple):
    """
    The input of a layer norm, as `fxquant.ops.integer_layer_norm` reads it.

    codes: int8 ``(..., C)``, as stored. factor, zero_point: int32, ``(C,)`` or 0-dim. qmax: the largest code, which tells by
    how much codes are shifted where they are stored.
    """

    codes: fx.Node
    factor: Tensor
    zero_point: Tensor
    qmax: int


def integer_input(graph: fx.Graph, norm: fx.Node) -> IntegerInput | str:
    """Return what `norm` reads as integers, adding the moves of its codes to `graph`; or why that cannot be."""
    if norm.target is not F.layer_norm:
        return "it is no layer norm"
    given = arguments_of(norm)
    if len(given["normalized_shape"]) != 1:
        return "it normalises over several axes"
    moves: list[fx.Node] = []
    value = given["input"]
    while isinstance(value, fx.Node) and moves_values(value):
        moves.insert(0, value)
        value = value.args[0]
    read = quantized(value)
    if read is None or not isinstance(value, fx.Node):
        return "its input is not rounded"
    scale = tensor_of(read.scale)
    factor = (scale / scale.min()).round()
    if not torch.allclose(scale, factor * scale.min(), rtol=1e-6, atol=0):
        return "the scales of its input are no powers of two of one another: use PowerOfTwoFactor or one scale there"
    zero = torch.zeros_like(factor) if read.zero_point is None else tensor_of(read.zero_point)
    factors, zeros = (_moved(t.to(torch.int32), read.axis, value, moves) for t in (factor, zero))
    if factors is None or zeros is None:
        return "its input has a scale per channel, and channels are moved on the way"
    codes = read.codes
    for move in moves:
        codes, source = graph.node_copy(move), codes
        codes.args = (source, *move.args[1:])
        known = value_of(move)
        set_value(codes, torch.empty_like(known, dtype=torch.int8) if known is not None else None)
    return IntegerInput(codes, factors, zeros, read.qmax)


def _moved(values: Tensor, axis: int | None, source: fx.Node, moves: list[fx.Node]) -> Tensor | None:
    """Return the value of each channel behind `moves`, from those of the channels of `source`; None where one has several."""
    if axis is None:
        return values
    moved: Tensor = along(values, known_value(source).dim(), axis).expand(known_value(source).shape)
    for move in moves:
        if move.target in _RESHAPES:
            moved = moved.reshape(known_value(move).shape)
        elif move.target in _PERMUTES:
            arguments: Any = move.args[1:]
            moved = getattr(moved, str(getattr(move.target, "__name__", move.target)))(*arguments)
        elif move.target is not F.pad or known_value(move).shape != moved.shape:  # padding by nothing
            return None
    rows = moved.reshape(-1, moved.shape[-1])
    return rows[0].contiguous() if bool((rows == rows[0]).all()) else None
