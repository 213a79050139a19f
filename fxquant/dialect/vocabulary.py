"""
The operators that a checkpoint may name: a rule that torch's own schemas decide, so that loading never runs what a file likes.

In the dialect is each operator of ATen and of torchvision that only computes a value (`fxquant.dialect.schemas`), under each
of its Python spellings (`fxquant.dialect.functions`), together with `fxquant.ops`, the operators in the table of quantisers,
and a few functions of timm. None opens a file, evaluates text, draws numbers, gives out uninitialised memory or writes to what
it is given.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import fx
from torch._ops import OpOverload, OpOverloadPacket

from fxquant.config.kinds import operators
from fxquant.dialect import functions, schemas
from fxquant.dialect.functions import Function
from fxquant.dialect.legal_calls import attribute_refusal, call_refusal

# Functions of timm that torch.fx is told not to look into.
_TIMM = (
    *("layers.attention.maybe_add_mask", "layers.attention.resolve_self_attn_mask"),
    *("layers.pos_embed.resample_abs_pos_embed", "layers.pos_embed.resample_abs_pos_embed_nhwc"),
    *("layers.pos_embed_sincos._build_grid", "layers.pos_embed_sincos._freq_buffer_dtype"),
    *("layers.pos_embed_sincos.get_mixed_grid", "layers.pos_embed_sincos.make_coords_dinov3"),
)


def function_named(name: str) -> Function | None:
    """Return the function that a checkpoint calls `name`, such as ``"torch.cat"``; None for a name outside the dialect."""
    known = functions.functions().get(name) or _quantisers().get(name)
    return known or _timm_function(name) or schemas.operator_named(name)


def name_of(function: object) -> str | None:
    """Return the name of `function` in checkpoints, None for one outside the dialect."""
    if isinstance(function, OpOverload | OpOverloadPacket) and schemas.operator_refusal(function) is None:
        return schemas.operator_name(function)
    try:
        name = functions.names().get(function)
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
        reason = functions.method_refusal(str(target))
        if reason is not None:
            return f"the tensor method {target!r} is not in the dialect: {reason}"
        if not args or not isinstance(args[0], fx.Node):
            return f"expected the tensor whose method {target!r} is called"
    elif name_of(target) is None:
        return f"the function {readable_name(target)} is not in the dialect{_why(target)}"
    if target is getattr:
        return attribute_refusal(args, kwargs)
    return call_refusal(target, args, kwargs)


def readable_name(target: object) -> str:
    """Return the name of a node's target for an error message."""
    if isinstance(target, str):
        return repr(target)
    if isinstance(target, OpOverload | OpOverloadPacket):
        return schemas.operator_name(target)
    return f"{getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', None) or target}"


def _why(target: object) -> str:
    if isinstance(target, OpOverload | OpOverloadPacket):
        return f": {schemas.operator_refusal(target)}"
    reason = schemas.packet_refusal(functions.aten_name(target))
    return "" if reason in (None, schemas.NO_OPERATOR) else f": {reason}"


def _quantisers() -> dict[str, Function]:
    """Return the operators of the table of quantisers, which need not be in `fxquant.ops`."""
    return {f"fxquant.ops.{function.__name__}": function for function in operators()}


def _timm_function(name: str) -> Function | None:
    if name.removeprefix("timm.") not in _TIMM or not name.startswith("timm."):
        return None
    module, _, attribute = name.rpartition(".")
    function: Function | None = getattr(importlib.import_module(module), attribute, None)
    return function
