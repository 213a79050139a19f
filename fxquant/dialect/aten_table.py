"""
How `torch.export` spells operators, and how the functional dialect does: the table that `respell_aten` applies.

A row names an overload of ``torch.ops.aten``, the function or tensor method that stands for it, and that one's arguments in
terms of the overload's: positional ones, then after ``/`` those given by keyword. ``*size`` spreads a list over positional
arguments, ``size=output_size`` renames a keyword, ``inplace=True`` gives it a constant. A row applies only where every
argument that it leaves out has its default value.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Row = tuple[Callable[..., Any] | str, str]

# Arguments that choose a kernel, not a value.
IGNORED = frozenset({"cudnn_enable", "cudnn_enabled", "non_blocking", "pin_memory"})

PRODUCTS: dict[str, Row] = {
    "linear.default": (F.linear, "input weight bias"),
    "conv1d.default": (F.conv1d, "input weight bias stride padding dilation groups"),
    "conv2d.default": (F.conv2d, "input weight bias stride padding dilation groups"),
    "conv2d.padding": (F.conv2d, "input weight bias stride padding dilation groups"),
    "conv3d.default": (F.conv3d, "input weight bias stride padding dilation groups"),
    "conv_transpose2d.input": (
        F.conv_transpose2d,
        "input weight bias stride padding output_padding groups dilation",
    ),
    "matmul.default": (torch.matmul, "self other"),
    "bmm.default": (torch.matmul, "self mat2"),
    "mm.default": (torch.matmul, "self mat2"),
    "addmm.default": (torch.addmm, "self mat1 mat2 / beta alpha"),
    "baddbmm.default": (torch.baddbmm, "self batch1 batch2 / beta alpha"),
    "einsum.default": (torch.einsum, "equation *tensors"),
    "scaled_dot_product_attention.default": (
        F.scaled_dot_product_attention,
        "query key value attn_mask / dropout_p is_causal scale enable_gqa",
    ),
}

NORMS: dict[str, Row] = {
    "layer_norm.default": (F.layer_norm, "input normalized_shape weight bias eps"),
    "rms_norm.default": (F.rms_norm, "input normalized_shape weight eps"),
    "group_norm.default": (F.group_norm, "input num_groups weight bias eps"),
    "batch_norm.default": (F.batch_norm, "input running_mean running_var weight bias training momentum eps"),
    "linalg_vector_norm.default": (torch.linalg.vector_norm, "self ord dim keepdim / dtype"),
}

_INPLACE_FLAG: dict[str, tuple[Callable[..., Any], str]] = {
    "relu": (F.relu, "self"),
    "relu6": (F.relu6, "self"),
    "silu": (F.silu, "self"),
    "hardswish": (F.hardswish, "self"),
    "hardsigmoid": (F.hardsigmoid, "self"),
    "hardtanh": (F.hardtanh, "self min_val max_val"),
    "elu": (F.elu, "self alpha"),
    "selu": (F.selu, "self"),
    "celu": (F.celu, "self alpha"),
    "mish": (F.mish, "self"),
    "leaky_relu": (F.leaky_relu, "self negative_slope"),
}
ACTIVATIONS: dict[str, Row] = {
    "gelu.default": (F.gelu, "self / approximate"),
    "softmax.int": (F.softmax, "self dim / dtype"),
    "log_softmax.int": (F.log_softmax, "self dim / dtype"),
    "softplus.default": (F.softplus, "self beta threshold"),
    "glu.default": (F.glu, "self dim"),
    **{f"{name}.default": row for name, row in _INPLACE_FLAG.items()},
    **{f"{name}_.default": (f, f"{arguments} / inplace=True") for name, (f, arguments) in _INPLACE_FLAG.items()},
}

_BINARY: dict[str, Callable[..., Any]] = {
    **{"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv},
    **{"eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt},
    **{"bitwise_and": operator.and_, "bitwise_or": operator.or_, "bitwise_xor": operator.xor},
    **{"ge": operator.ge, "remainder": operator.mod},
}
_UNARY = (
    *("abs", "exp", "expm1", "log", "log1p", "log2", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tanh", "sigmoid"),
    *("erf", "floor", "ceil", "round", "sign", "square", "logical_not", "isnan", "isfinite", "exp2"),
)
_CHANGED = ("add", "sub", "mul", "div")
ARITHMETIC: dict[str, Row] = {
    **{f"{name}.{kind}": (f, "self other") for name, f in _BINARY.items() for kind in ("Tensor", "Scalar")},
    **{f"{name}.default": (getattr(torch, name), "self") for name in _UNARY},
    **{f"{name}_.default": (f"{name}_", "self") for name in _UNARY if hasattr(Tensor, f"{name}_")},
    **{f"{name}_.{kind}": (f"{name}_", "self other") for name in _CHANGED for kind in ("Tensor", "Scalar")},
    "rsub.Scalar": (operator.sub, "other self"),
    "rsub.Tensor": (operator.sub, "other self"),
    "neg.default": (operator.neg, "self"),
    "bitwise_not.default": (operator.invert, "self"),
    "floor_divide.default": (operator.floordiv, "self other"),
    "div.Tensor_mode": (torch.div, "self other / rounding_mode"),
    "pow.Tensor_Scalar": (operator.pow, "self exponent"),
    "pow.Tensor_Tensor": (operator.pow, "self exponent"),
    "pow.Scalar": (operator.pow, "self exponent"),
    "maximum.default": (torch.maximum, "self other"),
    "minimum.default": (torch.minimum, "self other"),
    "logical_and.default": (torch.logical_and, "self other"),
    "logical_or.default": (torch.logical_or, "self other"),
    "clamp.default": (torch.clamp, "self min max"),
    "clamp.Tensor": (torch.clamp, "self min max"),
    "clamp_min.default": ("clamp_min", "self min"),
    "clamp_max.default": ("clamp_max", "self max"),
    "addcmul.default": (torch.addcmul, "self tensor1 tensor2 / value"),
    "where.self": (torch.where, "condition self other"),
    "where.ScalarOther": (torch.where, "condition self other"),
    "where.ScalarSelf": (torch.where, "condition self other"),
    "masked_fill.Scalar": ("masked_fill", "self mask value"),
    "masked_fill.Tensor": ("masked_fill", "self mask value"),
}

REDUCTIONS: dict[str, Row] = {
    "mean.default": ("mean", "self / dtype"),
    "mean.dim": ("mean", "self dim keepdim / dtype"),
    "sum.default": ("sum", "self / dtype"),
    "sum.dim_IntList": ("sum", "self dim keepdim / dtype"),
    "amax.default": ("amax", "self dim keepdim"),
    "amin.default": ("amin", "self dim keepdim"),
    "max.default": (torch.max, "self"),
    "max.dim": (torch.max, "self dim keepdim"),
    "min.dim": (torch.min, "self dim keepdim"),
    "argmax.default": (torch.argmax, "self dim keepdim"),
    "any.default": (torch.any, "self"),
    "all.default": (torch.all, "self"),
    "cumsum.default": (torch.cumsum, "self dim / dtype"),
    "var.correction": (torch.var, "self dim / correction keepdim"),
    "var_mean.correction": (torch.var_mean, "self dim / correction keepdim"),
}

SHAPES: dict[str, Row] = {
    "view.default": ("view", "self *size"),
    "reshape.default": ("reshape", "self *shape"),
    "_unsafe_view.default": ("reshape", "self *size"),
    "permute.default": ("permute", "self *dims"),
    "transpose.int": ("transpose", "self dim0 dim1"),
    "t.default": ("t", "self"),
    "numpy_T.default": ("t", "self"),
    "flatten.using_ints": ("flatten", "self start_dim end_dim"),
    "unflatten.int": ("unflatten", "self dim sizes"),
    "unsqueeze.default": ("unsqueeze", "self dim"),
    "squeeze.default": ("squeeze", "self"),
    "squeeze.dim": ("squeeze", "self dim"),
    "squeeze.dims": ("squeeze", "self dim"),
    "expand.default": ("expand", "self *size"),
    "expand_as.default": ("expand_as", "self other"),
    "reshape_as.default": ("reshape_as", "self other"),
    "view_as.default": ("view_as", "self other"),
    "contiguous.default": ("contiguous", "self / memory_format"),
    "clone.default": ("clone", "self / memory_format"),
    "movedim.int": ("movedim", "self source destination"),
    "movedim.intlist": ("movedim", "self source destination"),
    "chunk.default": ("chunk", "self chunks dim"),
    "split.Tensor": ("split", "self split_size dim"),
    "split_with_sizes.default": ("split", "self split_sizes dim"),
    "unbind.int": ("unbind", "self dim"),
    "repeat.default": ("repeat", "self *repeats"),
    "repeat_interleave.self_int": ("repeat_interleave", "self repeats dim"),
    "tile.default": ("tile", "self *dims"),
    "narrow.default": ("narrow", "self dim start length"),
    "unfold.default": ("unfold", "self dimension size step"),
    "roll.default": (torch.roll, "self shifts dims"),
    "flip.default": (torch.flip, "self dims"),
    "cat.default": (torch.cat, "tensors dim"),
    "stack.default": (torch.stack, "tensors dim"),
    "gather.default": (torch.gather, "self dim index"),
    "index_select.default": (torch.index_select, "self dim index"),
    "meshgrid.indexing": (torch.meshgrid, "*tensors / indexing"),
    "tril.default": (torch.tril, "self diagonal"),
    "triu.default": (torch.triu, "self diagonal"),
    "select_scatter.default": (torch.select_scatter, "self src dim index"),
    "sym_size.int": ("size", "self dim"),
    "sym_numel.default": ("numel", "self"),
}

IMAGES: dict[str, Row] = {
    "pad.default": (F.pad, "self pad mode value"),
    "constant_pad_nd.default": (F.pad, "self pad / value"),
    "avg_pool1d.default": (F.avg_pool1d, "self kernel_size stride padding ceil_mode count_include_pad"),
    "avg_pool2d.default": (
        F.avg_pool2d,
        "self kernel_size stride padding ceil_mode count_include_pad divisor_override",
    ),
    "max_pool2d.default": (F.max_pool2d, "self kernel_size stride padding dilation ceil_mode"),
    "adaptive_avg_pool1d.default": (F.adaptive_avg_pool1d, "self output_size"),
    "adaptive_avg_pool2d.default": (F.adaptive_avg_pool2d, "self output_size"),
    "im2col.default": (F.unfold, "self kernel_size dilation padding stride"),
    "col2im.default": (F.fold, "self output_size kernel_size dilation padding stride"),
    "pixel_shuffle.default": (F.pixel_shuffle, "self upscale_factor"),
    "pixel_unshuffle.default": (F.pixel_unshuffle, "self downscale_factor"),
    "embedding.default": (F.embedding, "indices weight"),
    "one_hot.default": (F.one_hot, "self num_classes"),
}

VALUES: dict[str, Row] = {
    "zeros_like.default": (torch.zeros_like, "self / dtype"),
    "ones_like.default": (torch.ones_like, "self / dtype"),
    "full_like.default": (torch.full_like, "self fill_value / dtype"),
    "zeros.default": (torch.zeros, "size / dtype device"),
    "ones.default": (torch.ones, "size / dtype device"),
    "full.default": (torch.full, "size fill_value / dtype device"),
    "arange.default": (torch.arange, "end / dtype device"),
    "arange.start": (torch.arange, "start end / dtype device"),
    "arange.start_step": (torch.arange, "start end step / dtype device"),
    "new_zeros.default": ("new_zeros", "self size / dtype"),
    "new_ones.default": ("new_ones", "self size / dtype"),
    "new_full.default": ("new_full", "self size fill_value / dtype"),
    "_assert_scalar.default": (torch._assert, "self assert_msg"),
}

ROWS: dict[str, Row] = {
    **PRODUCTS,
    **NORMS,
    **ACTIVATIONS,
    **ARITHMETIC,
    **REDUCTIONS,
    **SHAPES,
    **IMAGES,
    **VALUES,
}

# Operators that give back their first argument's value at inference.
IDENTITIES = frozenset(
    {
        *("alias.default", "detach.default", "detach_.default", "lift_fresh.default", "lift_fresh_copy.default"),
        *("dropout.default", "dropout_.default", "feature_dropout.default", "feature_dropout_.default"),
        *("alpha_dropout.default", "feature_alpha_dropout.default"),
    }
)

# Checks of what tracing itself fixed, such as the device: a graph may be moved.
CHECKS = frozenset(
    {"_assert_tensor_metadata.default", "sym_constrain_range.default", "sym_constrain_range_for_size.default"}
)

# Resizing: overload -> mode and antialias of `F.interpolate`.
RESIZES: dict[str, tuple[str, bool]] = {
    "upsample_nearest1d.vec": ("nearest", False),
    "upsample_nearest2d.vec": ("nearest", False),
    "_upsample_nearest_exact2d.vec": ("nearest-exact", False),
    "upsample_linear1d.vec": ("linear", False),
    "upsample_bilinear2d.vec": ("bilinear", False),
    "upsample_bicubic2d.vec": ("bicubic", False),
    "_upsample_bilinear2d_aa.vec": ("bilinear", True),
    "_upsample_bicubic2d_aa.vec": ("bicubic", True),
}
