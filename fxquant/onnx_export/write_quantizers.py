"""
Operators that quantise, as QuantizeLinear and DequantizeLinear.

Codes are written as the values that they stand for: a DequantizeLinear is right behind each QuantizeLinear, and what moves
codes in the graph moves values in the file. Runtimes look for that form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.graph.dataflow import moves_values
from fxquant.numerics.arithmetic import along, storage_offset
from fxquant.onnx_export.graph_writer import Writer
from fxquant.onnx_export.node_values import HeadValues, Name, StoredWeight, TwinValues
from fxquant.ops import add_noise, dequantize, dequantize_twin, quantize, quantize_twin

_LOOKED_THROUGH = (
    "reshape",
    "view",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "permute",
    "transpose",
    "contiguous",
)


def _quantize(
    w: Writer,
    x: Any,
    scale: Tensor,
    zero_point: Tensor | None,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    noise: Tensor | None = None,
) -> Name | HeadValues:
    """Write ``DequantizeLinear(QuantizeLinear(x))``, with Max and Min in front where the codes do not fill a byte."""
    if noise is not None:
        x = _add_noise(w, x, noise)
    zero = torch.zeros_like(scale, dtype=torch.int32) if zero_point is None else zero_point
    if axis is not None and scale.numel() > 1:
        return _quantize_along(w, x, scale, zero, qmin, qmax, axis)
    readers = (n for n in readers_of(w.node) if n.target is dequantize)
    unsigned = all(_is_multiplied_by_weights(n) for n in readers)
    return _round_trip(w, x, scale.reshape(()), zero.reshape(()), qmin, qmax, unsigned)


def readers_of(codes: fx.Node) -> Iterator[fx.Node]:
    """Yield what reads codes, behind their moves."""
    for user in codes.users:
        if moves_values(user):
            yield from readers_of(user)
        else:
            yield user


def _round_trip(
    w: Writer, x: Any, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, unsigned: bool = False
) -> Name:
    """Write codes of one scale and what they stand for; unsigned: as bytes from 0 to 255, those below zero as well."""
    if (qmin, qmax) not in ((0, 255), (-128, 127)):  # a code is the nearest to itself and to all beyond
        # No Clip: behind a product it would keep ONNX Runtime from computing that on int8.
        x = w.add("Min", w.add("Max", x, (qmin - zero_point) * scale), (qmax - zero_point) * scale)
    signed = qmin < 0 and not unsigned
    stored = w.constant(zero_point + 128 * (qmin < 0 and unsigned), torch.int8 if signed else torch.uint8)
    parameters = (w.constant(scale), stored)
    return w.add("DequantizeLinear", w.add("QuantizeLinear", x, *parameters), *parameters)


def _is_multiplied_by_weights(dequantized: fx.Node) -> bool:
    """Say whether no product of two activations reads the values: of other products runtimes have unsigned bytes by signed."""
    return all(user.target is not torch.matmul for user in dequantized.users)


def _quantize_along(
    w: Writer, x: Any, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int
) -> HeadValues:
    """
    Write codes of `x` in units of a scale per index of `axis`, such as one for each head.

    Runtimes have no product of codes with such scales. They have one where the scale is 1 and the product is multiplied later.
    """
    rank = len(w.result_shape)
    steps = w.add("Div", x, along(scale, rank, axis))
    if not zero_point.any():
        steps = _round_trip(w, steps, torch.ones(()), torch.zeros((), dtype=torch.int32), qmin, qmax)
    else:
        zero = along(zero_point.float(), rank, axis)
        codes = w.add("Clip", w.add("Round", w.add("Add", steps, zero)), float(qmin), float(qmax))
        steps = w.add("Sub", codes, zero)
    return HeadValues(steps, scale, axis % rank)


def _dequantize(
    w: Writer, codes: Any, scale: Tensor, zero_point: Tensor | None, qmin: int, qmax: int, axis: int | None = None
) -> Any:
    """
    Return values as they are; constant codes, those of a weight, lie in the file as int8.

    Runtimes look through some moves for the codes of an operand. Behind others the values are rounded once more, to themselves.
    """
    if isinstance(codes, Name) and scale.numel() == 1 and not _is_seen(w.node.args[0]):
        zero = torch.zeros((), dtype=torch.int32) if zero_point is None else zero_point
        unsigned = _is_multiplied_by_weights(w.node)
        return _round_trip(w, codes, scale.reshape(()), zero.reshape(()), qmin, qmax, unsigned)
    if not isinstance(codes, Tensor):
        return codes
    offset, name = storage_offset(qmax), w.names.get(id(codes), "")
    if zero_point is not None or offset:
        zero_point = (torch.zeros_like(scale) if zero_point is None else zero_point).int() - offset
    scale, axis = (scale.reshape(()), None) if scale.numel() == 1 else (scale, axis)
    zero_point = zero_point if zero_point is None else zero_point.reshape(scale.shape)
    return StoredWeight(codes, scale, zero_point, axis, name)


def _is_seen(codes: Any) -> bool:
    """Say whether ONNX Runtime finds that `codes` are such: whether nothing but certain moves stand behind their quantiser."""
    while moves_values(codes):
        if codes.target not in _LOOKED_THROUGH:
            return False
        codes = codes.args[0]
    return True


def _add_noise(w: Writer, x: Any, noise: Tensor) -> Name:
    """Write ``x + N``; a pattern for each patch is repeated over the image."""
    if noise.dim() == 1:
        return w.add("Add", x, noise)
    shape = w.shape(x)
    sizes = tuple(shape[-2:])
    if None in sizes:
        w.refuse("noise on images of any size")
    times = [-(-int(size) // period) for size, period in zip(sizes, noise.shape[1:], strict=True)]  # type: ignore[arg-type]
    pattern = w.add("Tile", noise, w.integers(1, *times))
    if any(size != n * period for size, n, period in zip(sizes, times, noise.shape[1:], strict=True)):
        pattern = w.add("Slice", pattern, w.integers(0, 0), w.integers(*map(int, sizes)), w.integers(1, 2))  # type: ignore[arg-type]
    w.shapes[made := w.add("Add", x, pattern)] = shape
    return made


def _quantize_twin(
    w: Writer, x: Any, high: Tensor, low: Tensor, split: Tensor, qmin: int, qmax: int, noise: Tensor | None = None
) -> TwinValues:
    """Write a QuantizeLinear for each range: a value that lies in the other range is 0 in this one."""
    if high.numel() > 1:
        w.refuse("two ranges for each head")
    x = x if noise is None else _add_noise(w, x, noise)
    ranges = (x, x)
    if float(split):
        above = w.add("GreaterOrEqual", x, split.reshape(()))
        ranges = (w.add("Where", above, x, 0.0), w.add("Where", above, 0.0, x))
    # The codes of one range alone, and those of the other as positive steps where its scale is negative.
    ends = (0, qmax), (qmin, 0) if float(low) > 0 else (0, -qmin)
    zero = torch.zeros((), dtype=torch.int32)
    parts = zip(ranges, (high, low), ends, strict=True)
    return TwinValues(*(_round_trip(w, x, scale.abs().reshape(()), zero, *end) for x, scale, end in parts))


def _same(w: Writer, codes: Any, *_: Any) -> Any:
    return codes


TABLE: dict[Any, Callable[..., Any]] = {
    quantize: _quantize,
    dequantize: _dequantize,
    quantize_twin: _quantize_twin,
    dequantize_twin: _same,
    add_noise: _add_noise,
}
