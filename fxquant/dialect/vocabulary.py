"""
The operators that a checkpoint may name: a closed list, so that loading a graph never runs code of the file's choosing.

It is what tracing the transformers of timm gives after `canonicalize`, the few operators of the same kind that other models
use in their place, `fxquant.ops`, and the operators in the table of quantisers. Each computes a value from its arguments. None
opens a file, evaluates text or gives out uninitialised memory, and in-place operators are not among them.
"""

from __future__ import annotations

import builtins
import importlib
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch._ops import OpOverload

import fxquant.ops
from fxquant.config.kinds import operators
from fxquant.dialect.aten_table import RESIZES, ROWS

Function = Callable[..., Any]

# What `getattr` may read, and only from the value of another node.
ATTRIBUTES = frozenset({"shape", "dtype", "device", "ndim", "T", "mT"})

_TORCH = (
    *("_assert", "abs", "add", "addcmul", "addmm", "all", "amax", "amin", "any", "arange", "argmax", "argmin"),
    *("atan2", "avg_pool1d", "baddbmm", "batch_norm", "bmm", "broadcast_to", "cat", "ceil", "chunk", "clamp"),
    *("clone", "concat", "conv1d", "cos", "cumsum", "div", "dropout", "einsum", "eq", "erf", "exp", "exp2", "expm1"),
    *("eye", "flatten", "flip", "floor", "full", "full_like", "gather", "ge", "group_norm", "gt", "index_select"),
    *("isfinite", "isnan", "layer_norm", "le", "linspace", "log", "log1p", "log2", "log_softmax", "logical_and"),
    *("logical_not", "logical_or", "lt", "masked_fill", "matmul", "max", "maximum", "mean", "meshgrid", "min"),
    *("minimum", "mm", "movedim", "mul", "narrow", "ne", "neg", "norm", "ones", "ones_like", "outer", "permute"),
    *("pixel_shuffle", "pixel_unshuffle", "pow", "prod", "reciprocal", "relu", "repeat_interleave", "reshape"),
    *("rms_norm", "roll", "round", "rsqrt", "select", "select_scatter", "sigmoid", "sign", "sin", "softmax", "split"),
    *("sqrt", "square", "squeeze", "stack", "std", "sub", "sum", "sym_float", "sym_int", "sym_max", "sym_min"),
    *("sym_not", "sym_sum", "tanh", "tensor_split", "tile", "topk", "transpose", "tril", "triu", "unbind"),
    *("unflatten", "unsqueeze", "var", "var_mean", "where", "zeros", "zeros_like"),
)
_FUNCTIONAL = (
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", "avg_pool2d"),
    *("avg_pool3d", "batch_norm", "celu", "conv2d", "conv3d", "conv_transpose2d", "dropout", "dropout2d", "elu"),
    *("embedding", "fold", "gelu", "glu", "grid_sample", "group_norm", "hardsigmoid", "hardswish", "hardtanh"),
    *("instance_norm", "interpolate", "layer_norm", "leaky_relu", "linear", "log_softmax", "logsigmoid"),
    *("max_pool1d", "max_pool2d", "mish", "multi_head_attention_forward", "normalize", "one_hot", "pad"),
    *("pixel_shuffle", "prelu", "relu", "relu6", "rms_norm", "scaled_dot_product_attention", "selu", "sigmoid"),
    *("silu", "softmax", "softplus", "tanh", "unfold"),
)
_OPERATOR = (
    *("abs", "add", "and_", "eq", "floordiv", "ge", "getitem", "gt", "invert", "le", "lt", "matmul", "mod", "mul"),
    *("ne", "neg", "not_", "or_", "pos", "pow", "sub", "truediv", "xor"),
)
_MATH = ("ceil", "floor", "log", "log2", "prod", "sqrt", "trunc")
_BUILTINS = ("abs", "getattr", "max", "min", "round")
_LINALG = ("matrix_norm", "norm", "vector_norm")

# Functions of timm that torch.fx is told not to look into.
_TIMM = (
    *("layers.attention.maybe_add_mask", "layers.attention.resolve_self_attn_mask"),
    *("layers.pos_embed.resample_abs_pos_embed", "layers.pos_embed.resample_abs_pos_embed_nhwc"),
    *("layers.pos_embed_sincos._build_grid", "layers.pos_embed_sincos._freq_buffer_dtype"),
    *("layers.pos_embed_sincos.get_mixed_grid", "layers.pos_embed_sincos.make_coords_dinov3"),
)

METHODS = frozenset(
    {
        *("abs", "add", "all", "amax", "amin", "any", "argmax", "bfloat16", "bmm", "bool", "ceil", "chunk", "clamp"),
        *("clamp_max", "clamp_min", "clone", "contiguous", "cos", "cumsum", "detach", "dim", "div", "double", "eq"),
        *("erf", "exp", "exp2", "expand", "expand_as", "expm1", "flatten", "flip", "float", "floor", "gather", "ge"),
        *("gt", "half", "index_select", "int", "is_floating_point", "le", "log", "log1p", "log2", "logical_not"),
        *("long", "lt", "masked_fill", "matmul", "max", "mean", "min", "mm", "movedim", "mul", "narrow", "ne", "neg"),
        *("new_full", "new_ones", "new_zeros", "norm", "numel", "permute", "pow", "prod", "reciprocal", "relu"),
        *("repeat", "repeat_interleave", "reshape", "reshape_as", "roll", "round", "rsqrt", "select", "sigmoid"),
        *("sign", "sin", "size", "softmax", "split", "sqrt", "square", "squeeze", "std", "sub", "sum", "swapaxes"),
        *("t", "tanh", "tile", "to", "topk", "transpose", "type_as", "unbind", "unflatten", "unfold", "unsqueeze"),
        *("var", "view", "view_as"),
    }
)

# Operators of torch.export that `respell_aten` has no other spelling for.
_UNSPELT = (
    *("adaptive_max_pool2d.default", "eye.default", "eye.m", "index.Tensor", "lstm.input"),
    *("native_layer_norm.default", "repeat_interleave.self_Tensor", "select.int", "slice.Tensor", "std.correction"),
    *("to.device", "to.dtype", "topk.default", "type_as.default"),
)
# It leaves those that it can spell, too, where they are called with an argument that the spelling lacks.
ATEN = (*_UNSPELT, *(name for name in (*ROWS, *RESIZES) if not name.partition(".")[0].endswith("_")))


def function_named(name: str) -> Function | None:
    """Return the function that a checkpoint calls `name`, such as ``"torch.cat"``; None for a name outside the dialect."""
    return _functions().get(name) or _quantisers().get(name) or _timm_function(name)


def name_of(function: object) -> str | None:
    """Return the name of `function` in checkpoints, None for one outside the dialect."""
    try:
        name = _names().get(function)
    except TypeError:  # not hashable
        return None
    if name is None:
        name = next((own for own, each in _quantisers().items() if each is function), None)
    if name is None:
        qualified = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
        found = _timm_function(qualified)
        name = qualified if found is not None and found is function else None
    return name


def refusal(op: str, target: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Return why a checkpoint cannot hold the call of `target`, a function or the name of a method; None where it can."""
    if op == "call_method":
        if target not in METHODS:
            return f"the tensor method {target!r} is not in the dialect"
        if not args or not isinstance(args[0], fx.Node):
            return f"expected the tensor whose method {target!r} is called"
    elif name_of(target) is None:
        return f"the function {readable_name(target)} is not in the dialect"
    if target is getattr and not _reads_attribute(args, kwargs):
        return f"getattr expects a node and one of {', '.join(sorted(ATTRIBUTES))}, found {args[1:]!r:.100}"
    return "out= writes to an argument" if kwargs.get("out") is not None else None


def readable_name(target: object) -> str:
    """Return the name of a node's target for an error message."""
    if isinstance(target, str):
        return repr(target)
    if isinstance(target, OpOverload):
        return str(target)
    return f"{getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', None) or target}"


def _reads_attribute(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    if len(args) != 2 or kwargs or not isinstance(args[0], fx.Node):
        return False
    return isinstance(args[1], str) and args[1] in ATTRIBUTES


def _quantisers() -> dict[str, Function]:
    """Return the operators of the table of quantisers, which need not be in `fxquant.ops`."""
    return {f"fxquant.ops.{function.__name__}": function for function in operators()}


@cache
def _functions() -> dict[str, Function]:
    return dict(_entries())


@cache
def _names() -> dict[object, str]:
    # Some functions have two names, such as torch.conv2d and F.conv2d: the later one, of the functional form, stays.
    return {function: name for name, function in _entries()}


def _entries() -> Iterator[tuple[str, Function]]:
    sources: tuple[tuple[str, ModuleType, tuple[str, ...]], ...] = (
        ("torch", torch, _TORCH),
        ("torch.nn.functional", F, _FUNCTIONAL),
        ("torch.linalg", torch.linalg, _LINALG),
        ("operator", operator, _OPERATOR),
        ("math", math, _MATH),
        ("builtins", builtins, _BUILTINS),
        ("fxquant.ops", fxquant.ops, tuple(fxquant.ops.__all__)),
    )
    for prefix, module, names in sources:
        # A release of torch may lack one of them; a graph that needs it is then refused by its name.
        yield from ((f"{prefix}.{name}", getattr(module, name)) for name in names if hasattr(module, name))
    for name in ATEN:
        packet, overload = name.split(".")
        found = getattr(getattr(torch.ops.aten, packet, None), overload, None)
        if found is not None:
            yield f"aten.{name}", found


def _timm_function(name: str) -> Function | None:
    if name.removeprefix("timm.") not in _TIMM or not name.startswith("timm."):
        return None
    module, _, attribute = name.rpartition(".")
    function: Function | None = getattr(importlib.import_module(module), attribute, None)
    return function
