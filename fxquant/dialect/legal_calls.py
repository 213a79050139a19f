"""
Which calls of a legal operator are not legal: those that write to an argument, that read other attributes, or that give a
number where a dtype is meant.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import fx
from torch._ops import OpOverload, OpOverloadPacket

from fxquant.dialect import functions, schemas

# Parameters that make more of a call than a value -> what they make of it, and the values that leave that off.
_SWITCHES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "out": ("writes to an argument", (None,)),
    "inplace": ("writes to an argument", (False,)),
    "max_norm": ("writes to the rows of a table that are looked up", (None,)),
    "pin_memory": ("pins memory", (None, False)),
}
# A norm over the batch writes to its running statistics where this is on.
_STATISTICS = {"training", "use_input_stats"}

# To operators the members of these are numbers, and kernels trust that each is one that torch knows.
_ENUMERATIONS = ("ScalarType", "Layout", "MemoryFormat", "QScheme")

# What may be read of a dtype and a device, which are attributes of tensors themselves.
_OF_ATTRIBUTES = {
    "dtype": frozenset({"is_complex", "is_floating_point", "itemsize"}),
    "device": frozenset({"index", "type"}),
}


def call_refusal(target: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Return which argument makes more, or less, than a value of this call of `target`; None where none does."""
    if isinstance(target, OpOverload | OpOverloadPacket):
        numbered = _numbered(target, args, kwargs)
        if numbered is not None:
            return f"{numbered}= expects a dtype, a layout or a memory format by its name, not a number"
    given = dict(zip(_parameters(target), args, strict=False)) | dict(kwargs)
    for name, (effect, off) in _SWITCHES.items():
        # Not by equality: 0 is equal to False, and a node may turn out to be anything.
        if name in given and not any(given[name] is value for value in off):
            return f"{name}= {effect}"
    if target in (max, min) and "key" in given:
        return "key= calls a function"
    trained = any(given[name] is not False for name in _STATISTICS & given.keys())
    if trained and given.get("running_mean") is not None:
        return "a norm in training writes to its running statistics"
    return None


def attribute_refusal(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Return why ``getattr(*args)`` may not be stored; None for a view or a fact of a tensor, or a named result."""
    read = len(args) == 2 and not kwargs and isinstance(args[0], fx.Node) and isinstance(args[1], str)
    if read and args[1] in functions.attributes() | _results(args[0]):
        return None
    legal = ", ".join(sorted(functions.attributes()))
    return f"getattr expects a node and one of {legal}, or the name of a result, found {args[1:]!r:.100}"


def _results(node: fx.Node) -> frozenset[str]:
    """Return the names that the value of `node` has for its parts, such as ``values`` and ``indices`` of a sort."""
    if node.target is getattr:
        return _OF_ATTRIBUTES.get(str(node.args[1]), frozenset())
    if node.op not in ("call_function", "call_method") or isinstance(node.target, OpOverload | OpOverloadPacket):
        return frozenset()  # operators give plain tuples
    return schemas.results_of(functions.aten_name(node.target))


def _numbered(operator: OpOverload | OpOverloadPacket, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Return the name of an argument that is of an enumeration, and is given what may be any number; None for none."""
    for place, name in _enumerations(operator):
        given = args[place] if place is not None and place < len(args) else kwargs.get(name)
        read = isinstance(given, fx.Node) and given.target is getattr and given.args[1] in ("dtype", "layout")
        if type(given) is int or (isinstance(given, fx.Node) and not read):
            return name
    return None


@cache
def _enumerations(operator: OpOverload | OpOverloadPacket) -> list[tuple[int | None, str]]:
    """Return the places, None for keywords, and the names of arguments that are of an enumeration to some overload."""
    names = operator.overloads() if isinstance(operator, OpOverloadPacket) else []
    overloads: list[Any] = [getattr(operator, name) for name in names] or [operator]
    found = [(None if a.kwarg_only else i, a) for o in overloads for i, a in enumerate(o._schema.arguments)]
    return [(place, a.name) for place, a in found if any(kind in str(a.real_type) for kind in _ENUMERATIONS)]


@cache
def _parameters(target: object) -> tuple[str, ...]:
    """Return the names of the positional parameters of `target`, none where they are not known."""
    if isinstance(target, OpOverload):
        return tuple(argument.name for argument in target._schema.arguments)
    if isinstance(target, str | OpOverloadPacket) or inspect.isbuiltin(target):
        return schemas.parameters_of(functions.aten_name(target))
    try:
        return tuple(inspect.signature(target).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ()
