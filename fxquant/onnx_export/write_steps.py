"""Operators that quantise as QuantizeLinear cannot, by a scale per token, to powers, or by a table: written in steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fxquant.graph.calls import arguments_of
from fxquant.numerics import adalog
from fxquant.numerics.arithmetic import EPS, EXP_COEFFICIENTS, EXP_SHIFTS, LN2, along, storage_offset
from fxquant.onnx_export.graph_writer import TYPES, Writer
from fxquant.onnx_export.node_values import Name, TokenCodes
from fxquant.onnx_export.write_quantizers import readers_of
from fxquant.ops import (
    dequantize,
    dequantize_log2,
    dequantize_tokens,
    fake_quantize_adalog,
    fake_quantize_summed_twin,
    log_int_softmax,
    quantize_adalog,
    quantize_log2,
    quantize_tokens,
)


def _same(w: Writer, codes: Any, *_: Any) -> Any:
    return codes


def _summed_twin(w: Writer, x: Any, split: Tensor, qmax: int) -> Name:
    split = split.reshape(())
    parts = []
    for low, high, scale in ((split, 1.0, torch.tensor(1 / qmax)), (0.0, split, split / qmax)):
        steps = w.add("Div", w.add("Clip", x, low, high), scale)
        codes = w.add("Clip", w.add("Round", steps), 0.0, float(qmax))
        parts.append(w.add("Mul", codes, scale))
    return w.add("Add", *parts)


def _quantize_tokens(w: Writer, x: Any, symmetric: bool, qmin: int, qmax: int) -> tuple[Any, ...]:
    """Write the steps of `fxquant.numerics.arithmetic.quantize_tokens`: ONNX has no quantiser with a scale per token."""
    axis = w.integers(-1)
    low = w.add("Min", w.add("ReduceMin", x, axis), 0.0)
    high = w.add("Max", w.add("ReduceMax", x, axis), 0.0)
    if not symmetric:
        width, steps = w.add("Sub", high, low), float(qmax - qmin)
    elif qmin < 0:
        width, steps = w.add("Max", w.add("Neg", low), high), (qmax - qmin) / 2
    else:
        width, steps = high, float(qmax)
    scale = w.add("Max", w.add("Div", width, steps), EPS)
    quotient, zero_point = w.add("Div", x, scale), None
    if not symmetric:
        first = w.add("Sub", float(qmin), w.add("Round", w.add("Div", low, scale)))
        zero_point = w.add("Clip", first, float(qmin), float(qmax))
        quotient = w.add("Add", quotient, zero_point)
    clipped = w.add("Clip", w.add("Round", quotient), float(qmin), float(qmax))
    codes = w.cast(clipped, torch.int8 if qmin < 0 else torch.uint8)
    zero_point = zero_point if zero_point is None else w.cast(zero_point, torch.int32)
    w.shapes[codes] = w.shape(x)
    return TokenCodes(codes, scale, zero_point), scale, zero_point


def _quantize_log2(w: Writer, x: Any, qmax: int) -> Name:
    """Write the powers ``2^-q`` of the exponents q, 0 for what is smaller than all."""
    exponents = w.add("Round", _log2(w, x))
    return _power(w, w.add("Min", exponents, 0.0), qmax)


def _power(w: Writer, exponents: Name, qmax: int) -> Name:
    kept = w.add("GreaterOrEqual", exponents, float(-qmax))
    return w.add("Where", kept, w.add("Pow", 2.0, exponents), 0.0)


def _log_int_softmax(w: Writer, scores: Any, scale: Tensor, qmax: int) -> Name:
    """Write the steps of `fxquant.numerics.arithmetic.log_int_softmax`, whose integers are floats there, too."""
    scale = along(scale.float(), len(w.shape(scores)), 1)
    axis = w.integers(-1)
    steps = w.add("Div", scores, scale)
    steps = w.add("Sub", steps, w.add("ReduceMax", steps, axis))
    a, b, c = EXP_COEFFICIENTS
    unit = torch.floor(-LN2 / scale)
    steps = w.add("Max", steps, EXP_SHIFTS * unit)
    shifts = w.add("Floor", w.add("Div", steps, unit))
    rest = w.add("Sub", steps, w.add("Mul", shifts, unit))
    inner = w.add("Add", rest, torch.floor((b / a) / scale))
    polynomial = w.add("Add", w.add("Mul", rest, inner), torch.floor((c / a) / scale**2))
    shifted = w.add("Mul", polynomial, w.add("Pow", 2.0, w.add("Sub", float(EXP_SHIFTS), shifts)))
    powers = w.add("Max", w.add("Floor", shifted), 0.0)
    inverse = w.add("Round", w.add("Div", w.add("ReduceSum", powers, axis), powers))
    exponent = w.add("Floor", _log2(w, inverse))
    beyond = w.add("Sub", inverse, w.add("Pow", 2.0, exponent))
    half = w.add("Pow", 2.0, w.add("Sub", exponent, 1.0))
    more = w.cast(w.add("GreaterOrEqual", beyond, half), torch.float32)
    return _power(w, w.add("Neg", w.add("Add", exponent, more)), qmax)


def _quantize_adalog(w: Writer, x: Any, largest: Tensor, step: Tensor, table: Tensor, shift: float) -> Name:
    """Write the codes of the table, with the DequantizeLinear of what reads them in the graph."""
    given = next((arguments_of(n) for n in readers_of(w.node) if n.target is dequantize), None)
    if given is None:
        w.refuse("its codes are not dequantised")
    shift_codes = 128 if given["qmin"] < 0 else storage_offset(given["qmax"])  # to bytes from 0 to 255
    codes = _look_up(w, x, largest, step, (table.int() + shift_codes).to(torch.uint8), shift)
    zero = torch.zeros((), dtype=torch.int32) if given["zero_point"] is None else w.read(given["zero_point"])
    zero = zero + (128 if given["qmin"] < 0 else 0)
    return w.add("DequantizeLinear", codes, w.read(given["scale"]).reshape(()), zero.to(torch.uint8).reshape(()))


def _log2(w: Writer, x: Any) -> Name:
    """Write the logarithm to the base of 2, which ONNX has not, as exact as that of torch."""
    natural = w.add("Log", w.add("Cast", x, to=TYPES[torch.float64]))
    return w.as_float(w.add("Mul", natural, torch.tensor(1 / math.log(2), dtype=torch.float64)))


def _look_up(w: Writer, x: Any, largest: Tensor, step: Tensor, table: Tensor, shift: float) -> Name:
    """Write `fxquant.numerics.adalog.look_up`."""
    ratio = w.add("Clip", w.add("Div", w.add("Add", x, shift), largest.reshape(())), adalog.LEAST, 1.0)
    rounded = w.add("Round", w.add("Div", w.add("Neg", _log2(w, ratio)), step.reshape(())))
    index = w.cast(w.add("Clip", rounded, 0.0, float(len(table) - 1)), torch.int64)
    return w.add("Gather", table, index, axis=0)


TABLE: dict[Any, Callable[..., Any]] = {
    quantize_tokens: _quantize_tokens,
    dequantize_tokens: _same,
    quantize_log2: _quantize_log2,
    log_int_softmax: _log_int_softmax,
    dequantize_log2: _same,
    quantize_adalog: _quantize_adalog,
    fake_quantize_adalog: _look_up,
    fake_quantize_summed_twin: _summed_twin,
}
