"""Matrix products, and the norms between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.config.kinds import dequantizers
from fxquant.dialect.spellings import pair
from fxquant.graph.dataflow import origin
from fxquant.numerics.arithmetic import along
from fxquant.onnx_export.graph_writer import Writer
from fxquant.onnx_export.node_values import HeadValues, Name, StoredWeight, TokenCodes, TwinValues


def _linear(w: Writer, x: Any, weight: Any, bias: Any = None) -> Name:
    """
    Write a product with the transposed weight ``(K, O)``, the form in which runtimes find an int8 product.

    The bias is added behind it. Twin-uniform values are multiplied one range at a time, and codes with a scale per token as
    integers. Where the input is float, runtimes would round it to 8 bits as well if the weight had two axes, so it has three.
    """
    lifted = len(w.result_shape) == 2  # else ONNX Runtime makes a Gemm of it, and that a float one
    if isinstance(x, TokenCodes) and isinstance(weight, StoredWeight) and weight.zero_point is None:
        product, lifted = _token_product(w, x, weight), False
    elif isinstance(weight, StoredWeight) and not _is_quantized(w, x):
        product = _matmul(w, x, w.add("Unsqueeze", _transposed(w, weight), w.integers(0)))
    else:
        product = _matmul(w, w.add("Unsqueeze", x, w.integers(0)) if lifted else x, _transposed(w, weight))
    product = product if bias is None else w.add("Add", product, bias)
    return w.add("Squeeze", product, w.integers(0)) if lifted else product


def _is_quantized(w: Writer, x: Any) -> bool:
    """Say whether the product that is written reads codes."""
    source = origin(w.node.args[0])
    return not isinstance(x, Name) or (source is not None and source.target in dequantizers())


def _transposed(w: Writer, weight: Any) -> Any:
    """Return a weight ``(O, K)`` as ``(K, O)``."""
    if isinstance(weight, StoredWeight):
        axis = None if weight.axis is None else 1 - weight.axis % 2
        return w.dequantized(weight._replace(codes=weight.codes.t(), axis=axis))
    return weight.t() if isinstance(weight, Tensor) else w.add("Transpose", weight, perm=[1, 0])


def _token_product(w: Writer, x: TokenCodes, weight: StoredWeight) -> Name:
    """Write ``(codes @ w - z sum(w)) * s * s_w``: int32 up to the scales."""
    total = w.add("MatMulInteger", x.codes, w.constant(weight.codes.t()))
    if x.zero_point is not None:
        sums = weight.codes.sum(1, dtype=torch.int32)
        total = w.add("Sub", total, w.add("Mul", x.zero_point, w.constant(sums)))
    real = w.add("Mul", w.add("Mul", w.as_float(total), x.scale), w.constant(weight.scale))
    return real


def _matmul(w: Writer, x: Any, other: Any) -> Name:
    """Write a product; scales of heads, which are no axis of the matrices, are multiplied behind it."""
    rank, scales, operands = len(w.result_shape), list[Tensor](), [x, other]
    for i, each in enumerate(operands):
        if isinstance(each, HeadValues) and len(w.shape(each)) == rank and each.axis < rank - 2:
            operands[i] = each.steps
            scales.append(along(each.scale, rank, each.axis))
    left, right = operands[0], w.tensor(operands[1])
    parts = left if isinstance(left, TwinValues) else (left,)
    product, *more = (w.add("MatMul", part, right) for part in parts)
    if more:
        product = w.add("Add", product, *more)
    return w.add("Mul", product, math.prod(scales[1:], start=scales[0])) if scales else product


def _conv2d(
    w: Writer,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Name:
    """Write a convolution; one whose windows tile the image becomes a matrix product, as runtimes then have int8 for it."""
    rows, columns = w.shape(weight)[2:]
    height, width = w.shape(x)[2:]
    tiles = pair(stride) == (rows, columns) and padding in (0, (0, 0)) and pair(dilation) == (1, 1) and groups == 1
    if tiles and isinstance(weight, StoredWeight) and rows and columns and height and width:
        whole = (height % rows, width % columns) == (0, 0)
        if whole and weight.axis in (None, 0):
            return _patch_product(w, x, weight, bias)
    if isinstance(padding, str):
        w.refuse(f"padding {padding!r}")
    top, left = pair(padding)
    window = {"strides": pair(stride), "pads": (top, left, top, left), "dilations": pair(dilation), "group": groups}
    return w.add("Conv", x, weight, *(() if bias is None else (bias,)), **window)


def _patch_product(w: Writer, x: Any, weight: StoredWeight, bias: Any) -> Name:
    """Write the product of patches ``(B, H', W', C kh kw)`` and the flattened weight, ``(B, O, H', W')``."""
    channels, (rows, columns) = weight.codes.shape[1], weight.codes.shape[2:]
    height, width = (int(size) for size in w.shape(x)[2:])  # type: ignore[arg-type]
    split = w.add("Reshape", x, w.integers(-1, channels, height // rows, rows, width // columns, columns))
    moved = w.add("Transpose", split, perm=[0, 2, 4, 1, 3, 5])
    patches = w.add("Reshape", moved, w.integers(-1, height // rows, width // columns, channels * rows * columns))
    product = _linear(w, patches, weight._replace(codes=weight.codes.flatten(1)), bias)
    return w.add("Transpose", product, perm=[0, 3, 1, 2])


def _attention(
    w: Writer,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Name:
    """Write both products, with the softmax between them."""
    if is_causal or enable_gqa or dropout_p:
        w.refuse("attention with dropout, a causal mask or grouped queries")
    depth = w.shape(query)[-1]
    factor = scale if scale is not None else 1 / math.sqrt(depth or 1)
    rank = len(w.shape(key))
    keys = w.add("Transpose", key, perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = w.add("MatMul", w.add("Mul", query, factor), keys)
    if attn_mask is not None and w.dtype(attn_mask) is torch.bool:
        scores = w.add("Where", attn_mask, scores, float("-inf"))
    elif attn_mask is not None:
        scores = w.add("Add", scores, attn_mask)
    return w.add("MatMul", w.add("Softmax", scores, axis=-1), value)


def _einsum(w: Writer, equation: str, *operands: Any) -> Name:
    return w.add("Einsum", *operands, equation=equation)


def _layer_norm(
    w: Writer, x: Any, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Name:
    gain = torch.ones(tuple(normalized_shape)) if weight is None else weight
    return w.add(
        "LayerNormalization", x, gain, *(() if bias is None else (bias,)), axis=-len(normalized_shape), epsilon=eps
    )


def _rms_norm(w: Writer, x: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Name:
    axes = w.integers(*range(-len(normalized_shape), 0))
    mean = w.add("ReduceMean", w.add("Mul", x, x), axes)
    spread = w.add("Sqrt", w.add("Add", mean, torch.finfo(torch.float32).eps if eps is None else eps))
    normed = w.add("Div", x, spread)
    return normed if weight is None else w.add("Mul", normed, weight)


def _batch_norm(
    w: Writer,
    x: Any,
    mean: Any,
    variance: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Name:
    if training or not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
        w.refuse("a batch norm that is trained")
    gain = (variance.double() + eps).rsqrt() * (1 if weight is None else weight.double())
    offset = (0 if bias is None else bias.double()) - mean.double() * gain
    rank = len(w.shape(x))
    slope, intercept = (w.constant(along(t.float(), rank, 1)) for t in (gain, offset))
    return w.add("Add", w.add("Mul", x, slope), intercept)


def _normalize(w: Writer, x: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Name:
    if p != 2.0:
        w.refuse(f"a norm of order {p}")
    length = w.add("ReduceL2", x, w.integers(dim))
    return w.add("Div", x, w.add("Max", length, eps))


TABLE: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    F.conv2d: _conv2d,
    torch.matmul: _matmul,
    torch.einsum: _einsum,
    F.scaled_dot_product_attention: _attention,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.batch_norm: _batch_norm,
    F.normalize: _normalize,
}
