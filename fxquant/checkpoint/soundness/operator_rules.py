"""What each operator of fxquant asks of its operands, and the value it gives: without its arithmetic, on shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from fxquant.checkpoint.soundness.operand_checks import FLOATS, Operands, sizes
from fxquant.errors import CheckpointError
from fxquant.numerics.arithmetic import LARGEST_STEP
from fxquant.ops import (
    add_noise,
    attention,
    attention_quantize,
    check_values,
    denoise_bias,
    dequantize,
    dequantize_float8,
    dequantize_log2,
    dequantize_tokens,
    dequantize_twin,
    extract_patches,
    fake_quantize_adalog,
    fake_quantize_summed_twin,
    float8_linear,
    int8_linear,
    int8_linear_add,
    int8_linear_gelu_quantize,
    int8_linear_gelu_quantize_twin,
    int8_linear_twin,
    int8_linear_twin_add,
    int8_matmul,
    int8_matmul_twin,
    integer_layer_norm,
    interpolate_scaled,
    layer_norm_quantize,
    layer_norm_quantize_tokens,
    log_int_softmax,
    mark_invalid,
    pack_twin,
    quantize,
    quantize_adalog,
    quantize_float8,
    quantize_float8_tokens,
    quantize_log2,
    quantize_tokens,
    quantize_twin,
    unpack_twin,
)

Rule = Callable[[Operands], Any]
Shape = tuple[int, ...] | None

_INT8, _INT32, _FLOAT32 = (torch.int8,), (torch.int32,), (torch.float32,)
_FLOAT8 = torch.float8_e4m3fn
_RESULTS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_FLOAT32_MAX = torch.finfo(torch.float32).max
_PADDING = 8  # rows and columns of an int8 weight are padded to a multiple of it
_FLOAT8_PADDING = 16  # and those of a float8 weight
_TERMS = 2**17  # so many products of two codes fit an int32
# What lies in the file, whatever else a graph computes; less what two operators may be given otherwise.
_CONSTANT = {
    *("weight", "bias", "scale", "high", "low", "split", "noise", "out_scale", "zero_point", "out_zero_point"),
    *("largest", "step", "table", "levels"),
    *("output_zero_point", "input_zero_point", "weight_zero_point", "a_zero_point", "b_zero_point"),
}
_COMPUTED = {
    attention: {"bias"},
    attention_quantize: {"bias"},
    denoise_bias: {"bias", "weight"},
    dequantize_float8: {"scale"},
    dequantize_tokens: {"scale", "zero_point"},
}


def check_given(target: Any, nodes: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` where `target` lacks a tensor, or where what it reads as a constant is computed by a node."""
    for name, annotation in target.__annotations__.items():
        if annotation == "Tensor" and name != "return" and nodes[name] is None:
            raise CheckpointError(f"{name}: expected a tensor, found None")
        plain = "Tensor" not in annotation and target is not interpolate_scaled  # whose factors may follow from sizes
        computed = [leaf for leaf in tree_leaves(nodes.get(name)) if isinstance(leaf, fx.Node)] if plain else []
        if computed:
            raise CheckpointError(f"{name}: expected a value of the file, found the result of {computed[0].name!r}")
    for name in _CONSTANT & nodes.keys() - _COMPUTED.get(target, set()):
        if isinstance(nodes[name], fx.Node) and nodes[name].op != "get_attr":
            raise CheckpointError(f"{name}: expected a tensor of the file, found the result of {nodes[name].name!r}")


def _quantize(o: Operands) -> Any:
    x = o.tensor("x", *FLOATS)
    o.codes_range()
    _scale(o, "scale", "zero_point", sizes(x))
    _noise(o, "noise", sizes(x))
    return _like(o, x, torch.int8)


def _dequantize(o: Operands) -> Any:
    codes = o.tensor("codes", torch.int8)
    o.stored_codes("codes")
    _scale(o, "scale", "zero_point", sizes(codes))
    return _like(o, codes, torch.float32)


def _quantize_twin(o: Operands) -> Any:
    x = o.tensor("x", *FLOATS)
    o.codes_range()
    _twin(o)
    _noise(o, "noise", sizes(x))
    return _like(o, x, torch.int8)


def _dequantize_twin(o: Operands) -> Any:
    codes = o.tensor("codes", torch.int8)
    o.stored_codes("codes")
    _twin(o)
    return _like(o, codes, torch.float32)


def _quantize_tokens(o: Operands) -> Any:
    return _per_token(o, o.tensor("x", *FLOATS))


def _dequantize_tokens(o: Operands) -> Any:
    codes = o.tensor("codes", torch.int8)
    rows = None if codes is None else tuple(codes.shape[:-1])
    o.shaped("scale", rows, dtypes=_FLOAT32)
    o.shaped("zero_point", rows, dtypes=_INT32)
    return _like(o, codes, torch.float32)


def _per_token(o: Operands, x: Tensor | None) -> Any:
    """Return codes, and the scale and the zero point of each row, of values `x`."""
    o.one_of("symmetric", True, False)
    o.codes_range()
    if x is None:
        return o.unknown
    rows = _rows_of(x, "x")
    shapes = ((tuple(x.shape), torch.int8), (rows, torch.float32), (rows, torch.int32))
    return tuple(_result(o, shape, dtype) for shape, dtype in shapes)


def _quantize_float8(o: Operands) -> Any:
    x = o.tensor("x", *FLOATS)
    _one_or_along(o, "scale", sizes(x))
    return _like(o, x, _FLOAT8)


def _quantize_float8_tokens(o: Operands) -> Any:
    x = o.tensor("x", *FLOATS)
    if x is None:
        return o.unknown
    return _like(o, x, _FLOAT8), _result(o, (*_rows_of(x, "x"), 1), torch.float32)


def _dequantize_float8(o: Operands) -> Any:
    codes, scale = o.tensor("codes", _FLOAT8), o.tensor("scale", *_FLOAT32)
    o.finite("codes")
    if codes is not None and scale is not None and scale.dim() > 1 and o.given["axis"] is None:
        o.shaped("scale", (*_rows_of(codes, "codes"), 1), dtypes=_FLOAT32)
        o.positive("scale")
    else:
        _one_or_along(o, "scale", sizes(codes))
    return _like(o, codes, torch.float32)


def _float8_linear(o: Operands) -> Any:
    codes, shape = o.tensor("codes", _FLOAT8), _product(o, "scale", dtype=_FLOAT8, padding=_FLOAT8_PADDING)
    o.finite("weight")
    o.shaped("row_scale", None if codes is None else (*_rows_of(codes, "codes"), 1), dtypes=_FLOAT32)
    o.positive("row_scale")
    return _result(o, shape, o.one_of("dtype", torch.float32, torch.bfloat16, torch.float16))


def _fake_quantize_summed_twin(o: Operands) -> Any:
    o.number("qmax", 1, 127)
    _one(o, "split")
    return _like(o, o.tensor("x", *FLOATS), torch.float32)


def _quantize_adalog(o: Operands) -> Any:
    return _adalog(o, "table", torch.int8)


def _fake_quantize_adalog(o: Operands) -> Any:
    o.finite("levels")
    return _adalog(o, "levels", torch.float32)


def _quantize_log2(o: Operands) -> Any:
    o.number("qmax", 1, 255)
    return _like(o, o.tensor("x", *FLOATS), torch.int8)


def _log_int_softmax(o: Operands) -> Any:
    scores = o.tensor("scores", *FLOATS)
    if scores is not None and (scores.dim() < 2 or scores.numel() == 0):
        raise CheckpointError(f"scores: expected (B, H, N, M), found {tuple(scores.shape)}")
    o.number("qmax", 1, 255)
    o.shaped("scale", (), None if scores is None else (scores.shape[1],), dtypes=_FLOAT32)
    o.positive("scale")
    scale = o.constants.get("scale")
    if scale is not None and bool((scale > LARGEST_STEP).any()):
        raise CheckpointError(f"scale: expected steps of at most {LARGEST_STEP:g}")
    return _like(o, scores, torch.int8)


def _dequantize_log2(o: Operands) -> Any:
    return _like(o, o.tensor("codes", torch.int8), torch.float32)


def _add_noise(o: Operands) -> Any:
    x = o.tensor("x", *FLOATS)
    _noise(o, "noise", sizes(x))
    return _like(o, x, torch.float32)


def _check_values(o: Operands) -> Any:
    x = o.tensor("x", *FLOATS)
    ends = [o.number(end, -math.inf, math.inf) for end in ("low", "high") if o.given[end] is not None]
    if ends != sorted(ends) or not isinstance(o.given["name"], str):
        raise CheckpointError(f"expected a range and a name, found {ends} and {o.given['name']!r:.100}")
    o.one_of("refuse", False, True)
    batched = o.one_of("batched", False, True)
    if batched and x is not None and x.dim() == 0:
        raise CheckpointError("x: expected a row for each image, found a number")
    return _result(o, None if x is None else tuple(x.shape[:1]) if batched else (), torch.float32)


def _mark_invalid(o: Operands) -> Any:
    y = o.tensor("y")
    batched = o.one_of("batched", False, True)
    o.shaped("invalid", tuple(y.shape[:1]) if batched and y is not None else None, dtypes=_FLOAT32)
    if y is not None and (y.is_complex() or (batched and y.dim() == 0)):
        raise CheckpointError(f"y: expected rows of real numbers, found {y.dtype} of shape {tuple(y.shape)}")
    return o.unknown if y is None else torch.empty_like(y)


def _denoise_bias(o: Operands) -> Any:
    weight = o.tensor("weight", *FLOATS)
    o.finite("noise")
    if weight is None:
        return o.unknown
    o.shaped("noise", tuple(weight.shape[1:]))
    o.shaped("bias", tuple(weight.shape[:1]))
    return weight.new_empty(weight.shape[:1], dtype=torch.float32)


def _pack_twin(o: Operands) -> Any:
    return _like(o, o.tensor("codes", torch.int8), torch.uint8)


def _unpack_twin(o: Operands) -> Any:
    return _like(o, o.tensor("packed", torch.uint8), torch.int8)


def _linear(o: Operands) -> Any:
    shape = _product(o, "scale")
    outputs = shape and shape[-1:]
    o.shaped("weight_zero_point", outputs, dtypes=_INT32)
    o.shaped("input_zero_point", (), dtypes=_INT32)
    _rows(o)
    return _result(o, shape, o.given["dtype"])


def _linear_add(o: Operands) -> Any:
    _rows(o)
    return _residual(o, _product(o, "scale"))


def _linear_twin(o: Operands) -> Any:
    return _result(o, _product(o, "high", "low"), o.given["dtype"])


def _linear_twin_add(o: Operands) -> Any:
    return _residual(o, _product(o, "high", "low"))


def _linear_gelu_quantize(o: Operands) -> Any:
    shape = _product(o, "scale")
    o.one_of("approximate", "none", "tanh")
    o.codes_range()
    _scale(o, "out_scale", "out_zero_point", shape)
    _noise(o, "noise", shape)
    _rows(o)
    return _result(o, shape, torch.int8)


def _linear_gelu_quantize_twin(o: Operands) -> Any:
    shape = _product(o, "scale")
    o.one_of("approximate", "none", "tanh")
    o.codes_range()
    _twin(o)
    _noise(o, "noise", shape)
    _rows(o)
    return _result(o, shape, torch.int8)


def _matmul(o: Operands) -> Any:
    shape = _matmul_shape(o)
    _per_head(o, "scale", shape, _FLOAT32)
    o.positive("scale")
    _per_head(o, "a_zero_point", shape, _INT32)
    _per_head(o, "b_zero_point", shape, _INT32)
    return _result(o, shape, o.given["dtype"])


def _matmul_twin(o: Operands) -> Any:
    shape = _matmul_shape(o)
    for name in ("high", "low"):
        _per_head(o, name, shape, _FLOAT32)
        o.finite(name)
    _per_head(o, "b_zero_point", shape, _INT32)
    return _result(o, shape, o.given["dtype"])


def _layer_norm_quantize(o: Operands) -> Any:
    x = o.tensor("x", *FLOATS)
    _affine(o, sizes(x))
    o.number("epsilon", 0, float("inf"))
    o.codes_range()
    _scale(o, "scale", "zero_point", sizes(x))
    _noise(o, "noise", sizes(x))
    return _like(o, x, torch.int8)


def _layer_norm_quantize_tokens(o: Operands) -> Any:
    x = o.tensor("x", *FLOATS)
    _affine(o, sizes(x))
    o.number("epsilon", 0, float("inf"))
    return _per_token(o, x)


def _integer_layer_norm(o: Operands) -> Any:
    codes = o.tensor("codes", torch.int8)
    channels = None if codes is None else _last(codes)
    for name in ("factor", "zero_point"):
        o.shaped(name, (), channels, dtypes=_INT32)
    o.number("qmax_in", 1, 255)
    _affine(o, sizes(codes))
    o.codes_range()
    _one(o, "scale")
    o.positive("scale")
    o.shaped("output_zero_point", (), dtypes=_INT32)
    return _like(o, codes, torch.int8)


def _attention_quantize(o: Operands) -> Any:
    o.codes_range()
    shape = _attention_shape(o)
    _scale(o, "scale", "zero_point", shape)
    _noise(o, "noise", shape)
    return _result(o, shape, torch.int8)


def _attention(o: Operands) -> Any:
    q, shape = o.tensor("q", *FLOATS, axes=(4,)), _attention_shape(o)
    return o.unknown if q is None else _result(o, shape, q.dtype)


def _attention_shape(o: Operands) -> Shape:
    """Check what attention reads, and return the shape of its result with the heads side by side."""
    q, k, v = (o.tensor(name, *FLOATS, axes=(4,)) for name in ("q", "k", "v"))
    o.number("factor", float("-inf"), float("inf"))
    if q is None or k is None or v is None:
        return None
    batch, heads, rows, depth = q.shape
    if k.shape != v.shape or k.shape != (batch, heads, k.shape[2], depth) or not q.dtype is k.dtype is v.dtype:
        found = ", ".join(f"{t.dtype} {tuple(t.shape)}" for t in (q, k, v))
        raise CheckpointError(f"expected queries, keys and values of as many heads and as wide, found {found}")
    o.shaped("bias", (heads, rows, k.shape[2]), (1, rows, k.shape[2]))
    mask = o.optional("mask", *FLOATS, axes=(3,))
    if mask is not None and (mask.shape[1:] != (rows, k.shape[2]) or not mask.shape[0] or batch % mask.shape[0]):
        raise CheckpointError(f"mask: expected ({batch}, {rows}, {k.shape[2]}) or a part of it, found {sizes(mask)}")
    return batch, rows, heads * depth


def _extract_patches(o: Operands) -> Any:
    codes = o.tensor("codes", torch.int8, _FLOAT8, axes=(4,))
    float8 = codes is not None and codes.dtype is _FLOAT8
    if float8 and (o.given["zero_point"], o.given["qmax"]) != (None, 127):
        raise CheckpointError("expected e4m3 codes without a zero point, and the qmax 127")
    kernel, stride, padding = o.pair("kernel", 1), o.pair("stride", 1), o.pair("padding", 0)
    if any(p > k for p, k in zip(padding, kernel, strict=True)):
        raise CheckpointError(f"expected a padding of at most the kernel {kernel}, found {padding}")
    o.shaped("zero_point", (), dtypes=_INT32)
    o.number("qmax", 1, 255)
    if codes is None:
        return o.unknown
    sides = zip(codes.shape[2:], kernel, stride, padding, strict=True)
    rows, columns = ((n + 2 * p - k) // s + 1 for n, k, s, p in sides)
    if rows < 1 or columns < 1:
        raise CheckpointError(f"the kernel {kernel} does not fit an image of shape {tuple(codes.shape)}")
    return _result(o, (codes.shape[0], rows, columns, codes.shape[1] * kernel[0] * kernel[1]), codes.dtype)


def _interpolate_scaled(o: Operands) -> Any:
    x = o.tensor("x", *FLOATS, axes=(4,))
    factors = [o.number(name, 2.0**-16, 2.0**16) for name in ("height", "width")]
    o.one_of("mode", "nearest", "bilinear", "bicubic", "area", "nearest-exact")
    if o.one_of("antialias", True, False) and o.given["mode"] not in ("bilinear", "bicubic"):
        raise CheckpointError(f"antialias: {o.given['mode']} interpolation has none")
    if x is None:
        return o.unknown
    shape = [int(n * factor) for n, factor in zip(x.shape[2:], factors, strict=True)]
    if min(*shape, *x.shape[1:]) < 1:
        raise CheckpointError(f"expected a larger image, found {tuple(x.shape)} times {factors}")
    return _result(o, (*x.shape[:2], *shape), x.dtype)


def _product(o: Operands, *scales: str, dtype: torch.dtype = torch.int8, padding: int = _PADDING) -> Shape:
    """Check codes, weight, scales and bias of a linear layer and return the shape of what it gives."""
    o.one_of("dtype", *_RESULTS)
    if "pad_rows" in o.given:
        o.one_of("pad_rows", True, False)
    codes, weight = o.tensor("codes", dtype), o.tensor("weight", dtype, axes=(2,))
    scale = o.tensor(scales[0], torch.float32, axes=(1,))
    for name in scales:
        (o.positive if name != "low" else o.finite)(name)
    o.finite("bias")
    if codes is None or weight is None or scale is None:
        return None
    depth, outputs = _last(codes)[0], scale.shape[0]
    rows, columns = weight.shape
    if not 0 <= rows - outputs < padding or not 0 <= columns - depth < padding or not 0 < columns < _TERMS:
        raise CheckpointError(
            f"weight: expected {outputs} rows, as there are scales, and {depth} columns, as there are codes, or the next "
            f"multiples of {padding}, found shape {tuple(weight.shape)}"
        )
    for name in (*scales, "bias"):
        o.shaped(name, (outputs,), dtypes=_FLOAT32)
    return *codes.shape[:-1], outputs


def _rows(o: Operands) -> None:
    """Check the scale and the zero point of each row of the codes of a linear layer: both of them, or none."""
    codes = o.tensor("codes", torch.int8)
    given = [o.given[name] is not None for name in ("row_scale", "row_zero_point")]
    if any(given) and (not all(given) or o.given.get("weight_zero_point") is not None):
        raise CheckpointError(
            "expected scale and zero point of each row beside a symmetric weight, or neither of the two"
        )
    rows = None if codes is None else tuple(codes.shape[:-1])
    o.shaped("row_scale", rows, dtypes=_FLOAT32)
    o.shaped("row_zero_point", rows, dtypes=_INT32)


def _matmul_shape(o: Operands) -> Shape:
    o.one_of("dtype", *_RESULTS)
    a, b = o.tensor("a", torch.int8), o.tensor("b", torch.int8)
    if a is None or b is None:
        return None
    if a.dim() < 2 or b.dim() < 2 or a.shape[-1] != b.shape[-2] or not 0 < a.shape[-1] < _TERMS:
        raise CheckpointError(f"expected factors (..., N, K) and (..., K, M), found {sizes(a)} and {sizes(b)}")
    return *torch.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]


def _residual(o: Operands, shape: Shape) -> Any:
    o.shaped("residual", shape)
    return _result(o, shape, o.given["dtype"])


def _scale(o: Operands, scale: str, zero_point: str, shape: Shape) -> None:
    """Check a scale, and the zero point of its shape: one for all values, or one per index of the axis that is given."""
    value = _one_or_along(o, scale, shape)
    o.shaped(zero_point, sizes(value), dtypes=_INT32)


def _one_or_along(o: Operands, scale: str, shape: Shape) -> Tensor | None:
    """Return a scale: one for all values, or one per index of the axis that is given."""
    axis = o.given.get("axis")
    if axis is not None and type(axis) is not int:
        raise CheckpointError(f"axis: expected a whole number or None, found {axis!r:.100}")
    if axis is not None and shape is not None and not -len(shape) <= axis < len(shape):
        raise CheckpointError(f"axis: expected one of the {len(shape)} axes of {shape}, found {axis}")
    value = o.tensor(scale, torch.float32, axes=(0,) if axis is None else (0, 1))
    if value is not None and value.dim() and shape is not None:
        o.shaped(scale, (shape[axis or 0],), dtypes=_FLOAT32)
    o.positive(scale)
    return value


def _twin(o: Operands) -> None:
    for name in ("high", "low", "split"):
        _one(o, name)
        o.finite(name)
    o.positive("high")
    if "low" in o.constants and not bool((o.constants["low"] != 0).all()):
        raise CheckpointError("low: expected a scale that is not zero")


def _adalog(o: Operands, table: str, dtype: torch.dtype) -> Any:
    for name in ("largest", "step"):
        _one(o, name)
        o.positive(name)
    o.number("shift", 0, _FLOAT32_MAX)
    entries = o.tensor(table, dtype, axes=(1,))
    if entries is not None and entries.shape[0] < 2:
        raise CheckpointError(f"{table}: expected two entries or more, found {entries.shape[0]}")
    return _like(o, o.tensor("x", *FLOATS), dtype)


def _one(o: Operands, name: str) -> None:
    o.tensor(name, torch.float32, axes=(0,))


def _noise(o: Operands, name: str, shape: Shape) -> None:
    """Check what is added to the values of `shape`: one number per channel, or one per channel and pixel of a patch."""
    o.finite(name)
    noise = o.optional(name, torch.float32, axes=(1, 3))
    if noise is None or shape is None:
        return
    channels = shape[-1:] if noise.dim() == 1 else shape[-3:-2]
    if tuple(noise.shape[:1]) != channels or noise.numel() == 0 or (noise.dim() == 3 and len(shape) != 4):
        raise CheckpointError(f"{name}: expected noise for values of shape {shape}, found {tuple(noise.shape)}")


def _per_head(o: Operands, name: str, shape: Shape, dtypes: tuple[torch.dtype, ...]) -> None:
    heads = None if shape is None or len(shape) < 3 else (shape[-3], 1, 1)
    o.shaped(name, (), *((None,) if shape is None else () if heads is None else (heads,)), dtypes=dtypes)


def _affine(o: Operands, shape: Shape) -> None:
    """Check the weight and the bias of a layer norm over the last axis of `shape`."""
    if shape is not None and (not shape or not shape[-1]):
        raise CheckpointError(f"expected values to normalise, found shape {shape}")
    for name in ("weight", "bias"):
        o.shaped(name, None if shape is None else shape[-1:])


def _rows_of(x: Tensor, name: str) -> tuple[int, ...]:
    if x.dim() == 0 or x.shape[-1] == 0:
        raise CheckpointError(f"{name}: expected rows, found shape {tuple(x.shape)}")
    return tuple(x.shape[:-1])


def _last(x: Tensor) -> tuple[int, ...]:
    if x.dim() == 0:
        raise CheckpointError("expected an operand of one axis or more, found a single value")
    return tuple(x.shape[-1:])


def _like(o: Operands, x: Tensor | None, dtype: torch.dtype) -> Any:
    return o.unknown if x is None else torch.empty_like(x, dtype=dtype)


def _result(o: Operands, shape: Shape, dtype: torch.dtype) -> Any:
    return o.unknown if shape is None else torch.empty(shape, dtype=dtype, device="meta")


RULES: dict[Any, Rule] = {
    add_noise: _add_noise,
    attention: _attention,
    attention_quantize: _attention_quantize,
    check_values: _check_values,
    denoise_bias: _denoise_bias,
    dequantize: _dequantize,
    dequantize_float8: _dequantize_float8,
    dequantize_log2: _dequantize_log2,
    dequantize_tokens: _dequantize_tokens,
    dequantize_twin: _dequantize_twin,
    extract_patches: _extract_patches,
    fake_quantize_adalog: _fake_quantize_adalog,
    fake_quantize_summed_twin: _fake_quantize_summed_twin,
    float8_linear: _float8_linear,
    int8_linear: _linear,
    int8_linear_add: _linear_add,
    int8_linear_gelu_quantize: _linear_gelu_quantize,
    int8_linear_gelu_quantize_twin: _linear_gelu_quantize_twin,
    int8_linear_twin: _linear_twin,
    int8_linear_twin_add: _linear_twin_add,
    int8_matmul: _matmul,
    int8_matmul_twin: _matmul_twin,
    integer_layer_norm: _integer_layer_norm,
    interpolate_scaled: _interpolate_scaled,
    layer_norm_quantize: _layer_norm_quantize,
    layer_norm_quantize_tokens: _layer_norm_quantize_tokens,
    log_int_softmax: _log_int_softmax,
    mark_invalid: _mark_invalid,
    pack_twin: _pack_twin,
    quantize: _quantize,
    quantize_adalog: _quantize_adalog,
    quantize_float8: _quantize_float8,
    quantize_float8_tokens: _quantize_float8_tokens,
    quantize_log2: _quantize_log2,
    quantize_tokens: _quantize_tokens,
    quantize_twin: _quantize_twin,
    unpack_twin: _unpack_twin,
}
