"""
The Python functions, tensor methods and attributes that a checkpoint may name, by the rule of `fxquant.dialect.schemas`.

A function that torch implements in C++ is in the dialect where the ATen operator of its name is, and so is a tensor method.
Those that torch writes in Python are put together from such functions; two modules hold nothing else, less the few that are
named below. Of Python's own modules there are those functions that compute with numbers.
"""

from __future__ import annotations

import builtins
import inspect
import math
import operator
from collections.abc import Callable, Iterator
from functools import cache
from types import BuiltinFunctionType, FunctionType, GetSetDescriptorType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fxquant.ops
from fxquant.dialect.mutation import INPLACE_OPERATORS
from fxquant.dialect.schemas import NO_OPERATOR, packet_refusal

Function = Callable[..., Any]

_TENSORS: tuple[tuple[str, ModuleType], ...] = (
    ("torch", torch),
    ("torch.fft", torch.fft),
    ("torch.special", torch.special),
    ("torch.linalg", torch.linalg),
    ("torch.nn.functional", F),
)
_COMPOSED = ("torch.functional", "torch.nn.functional")
_NOT_COMPOSED = frozenset(
    {
        *("assert_int_or_pair", "triplet_margin_with_distance_loss"),  # no value; calls a function that it is given
        *("gumbel_softmax", "fractional_max_pool2d_with_indices", "fractional_max_pool3d_with_indices"),  # random
        *("grouped_mm", "scaled_addmm", "scaled_grouped_mm", "scaled_mm"),  # of one backend
    }
)
_SYMBOLIC = ("_assert", "sym_float", "sym_int", "sym_ite", "sym_max", "sym_min", "sym_not", "sym_sqrt", "sym_sum")

_BUILTINS = ("abs", "bool", "divmod", "float", "getattr", "int", "len", "max", "min", "pow", "round", "sum")
_NOT_OPERATORS = frozenset({"attrgetter", "call", "delitem", "iconcat", "itemgetter", "methodcaller", "setitem"})
_NOT_MATH = frozenset({"comb", "factorial", "perm"})  # small numbers in, endless ones out

# Methods that are no operators of ATen: casts, and what is known of a tensor's size.
_CASTS = ("bfloat16", "bool", "byte", "cdouble", "cfloat", "char", "double", "float", "half", "int", "long", "short")
_METHODS = frozenset({*_CASTS, "cpu", "element_size", "ndimension", "nelement", "unique"})

_FACTS = frozenset({"device", "dtype", "itemsize", "layout", "nbytes", "ndim", "shape"})
_OPERATOR_OF = {"T": "numpy_T", "H": "matrix_H"}


@cache
def functions() -> dict[str, Function]:
    """Return the functions of the dialect by their names, such as ``"torch.cat"``."""
    return dict(_entries())


@cache
def names() -> dict[object, str]:
    """Return the name of each function of the dialect: the later module's where it has two, as ``F.conv2d`` has."""
    return {function: name for name, function in _entries()}


@cache
def method_refusal(name: str) -> str | None:
    """Return why a checkpoint cannot call the tensor method `name`, None where it can."""
    if name in _METHODS:
        return None
    if name == "index":
        return "it gives functorch's dimensions of a tensor, and makes as many of them as a number says"
    if name.startswith("_") or name.endswith("_") or not callable(inspect.getattr_static(Tensor, name, None)):
        return "it is no method that gives a new tensor"
    return packet_refusal(name)


@cache
def attributes() -> frozenset[str]:
    """Return the attributes of tensors that may be read: views such as ``mT``, and facts such as ``shape``."""
    described = (
        n for n in dir(Tensor) if isinstance(inspect.getattr_static(Tensor, n), property | GetSetDescriptorType)
    )
    return _FACTS | {name for name in described if packet_refusal(_OPERATOR_OF.get(name, name)) is None}


def aten_name(target: object) -> str:
    """Return the name of the ATen operator that a function or tensor method is; it need not be one."""
    return target if isinstance(target, str) else str(getattr(target, "__name__", ""))


def _entries() -> Iterator[tuple[str, Function]]:
    for prefix, module in _TENSORS:
        yield from ((f"{prefix}.{name}", found) for name, found in vars(module).items() if _is_of_tensors(name, found))
    for prefix, module, chosen in (
        ("torch", torch, _SYMBOLIC),
        ("operator", operator, [n for n in operator.__all__ if n not in _NOT_OPERATORS]),
        ("math", math, [n for n, f in vars(math).items() if callable(f) and n[0] != "_" and n not in _NOT_MATH]),
        ("builtins", builtins, _BUILTINS),
        ("fxquant.ops", fxquant.ops, fxquant.ops.__all__),
    ):
        # A release of torch may lack one of them; a graph that needs it is then refused by its name.
        found = ((name, getattr(module, name)) for name in chosen if hasattr(module, name))
        yield from ((f"{prefix}.{name}", each) for name, each in found if each not in INPLACE_OPERATORS)


def _is_of_tensors(name: str, found: object) -> bool:
    """Say whether `found`, which a module of torch calls `name`, computes a value from tensors and does nothing else."""
    if name.startswith("_") or name.endswith("_"):
        return False
    refusal = packet_refusal(aten_name(found))
    if isinstance(found, BuiltinFunctionType):
        return refusal is None
    composed = isinstance(found, FunctionType) and found.__module__ in _COMPOSED and name not in _NOT_COMPOSED
    return composed and refusal in (None, NO_OPERATOR)
