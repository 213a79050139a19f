"""Run an operator on everything that can be wrong with its arguments, and say where it is neither right nor an error."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from fxquant.kernels import use_backend
from fxquant.ops import pack_twin
from tests.support import operator_calls
from tests.support.operator_changes import MEMORY, REPEATED, VALUES, changes

NEED_VALUES = (pack_twin,)
Outcome = Any  # what a call returns, or the error that it raises


def operator_faults(calls: str, name: str, right: bool = True, device: str = "cpu") -> list[str]:
    """
    Return what is wrong with a registered operator: the call `name` of the function `calls` of `operator_calls`.

    right: try what it has to compute, too, and not only what it has to refuse.
    """
    call = getattr(operator_calls, calls)()[name]
    call = call._replace(args=tree_map_only(Tensor, lambda t: t.to(device), call.args))
    if calls == "triton_calls":
        importlib.import_module("fxquant.kernels.triton.operators")
    run = getattr(torch.ops.fxquant, name.partition(" ")[0])
    return list(_operator_faults(run, call, right))


def _operator_faults(run: Callable[..., Any], call: operator_calls.Call, right: bool) -> Iterator[str]:
    for what, args in [("as it is", call.args), *changes(call.args)]:
        if "cut short" in what and run.__name__.startswith("triton_"):
            continue  # as torch's own operators, these trust a storage to hold its tensor
        if not right and not isinstance(_outcome(run, _on_meta(args)), Exception):
            continue
        found = _outcome(run, args)
        if what == "as it is" and isinstance(found, Exception):
            yield f"{what}: {found}"
        values_only = any(word in what for word in VALUES)
        if not isinstance(found, Exception) and not values_only:
            on_cpu = tree_map_only(Tensor, Tensor.cpu, args)  # CUDA's int8 product refuses few rows and odd sizes
            wanted = _outcome(operator_calls.expected, (call, on_cpu))
            if wanted is not None and not _alike(found, wanted):
                yield f"{what}: {_shown(found)} instead of {_shown(wanted)}"
        known = not isinstance(found, Exception) or not any(word in what for word in (*MEMORY, *VALUES, *REPEATED))
        fake = _outcome(run, _on_meta(args)) if known else found
        if not _same(found, fake):
            yield f"{what}: {_shown(found)} but the fake operator gives {_shown(fake)}"


def function_faults(name: str) -> list[str]:
    """Return where a function of `fxquant.ops` differs between kernels, torch's operators and tensors without values."""
    call, run = operator_calls.function_calls()[name], operator_calls.FUNCTIONS[name.partition(" ")[0]]
    return list(_function_faults(run, call))


def _function_faults(run: Callable[..., Any], call: operator_calls.Call) -> Iterator[str]:
    for what, args in [("as it is", call.args), *changes(call.args)]:
        if "cut short" in what:
            continue  # torch's own operators trust a storage to hold its tensor
        found = _outcome(run, args)
        if what == "as it is" and isinstance(found, Exception):
            yield f"{what}: {found}"
        if any(word in what for word in VALUES):
            continue
        with use_backend("aten"):
            wanted = _outcome(run, args)
        if not _alike(found, wanted):
            yield f"{what}: {_shown(found)} on kernels, {_shown(wanted)} on torch's operators"
        known = not isinstance(found, Exception) or not any(word in what for word in (*MEMORY, *REPEATED))
        elsewhere = _outcome(run, _on_meta(args)) if known and run not in NEED_VALUES else found
        if not _same(found, elsewhere):
            yield f"{what}: {_shown(found)}, but without values {_shown(elsewhere)}"


def _outcome(run: Callable[..., Any], args: tuple[Any, ...]) -> Outcome:
    try:
        return run(*args)
    except Exception as error:
        return error


def _on_meta(args: tuple[Any, ...]) -> tuple[Any, ...]:
    made: tuple[Any, ...] = tree_map_only(Tensor, lambda t: t.to("meta"), args)
    return made


def _same(found: Outcome, fake: Outcome) -> bool:
    """Say whether two outcomes are errors, or have the same shapes and dtypes."""
    if isinstance(found, Exception) or isinstance(fake, Exception):
        return isinstance(found, Exception) and isinstance(fake, Exception)
    one, other = tree_leaves(found), tree_leaves(fake)
    return [(t.shape, t.dtype) for t in one] == [(t.shape, t.dtype) for t in other]


def _alike(found: Outcome, wanted: Outcome) -> bool:
    """Say whether two outcomes are errors, or values that agree to rounding: codes to one step."""
    if not _same(found, wanted) or isinstance(found, Exception):
        return _same(found, wanted)
    pairs = zip(tree_leaves(found), tree_leaves(wanted), strict=True)
    return all(_close(one, other) for one, other in pairs)


def _close(one: Tensor, other: Tensor) -> bool:
    one = one.cpu()
    if one.dtype is torch.int8:
        return one.numel() == 0 or int((one.int() - other.int()).abs().max()) <= 1
    tolerance = 1e-2 if one.dtype in (torch.bfloat16, torch.float16) else 1e-4
    return torch.allclose(one.double(), other.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def _shown(outcome: Outcome) -> str:
    if isinstance(outcome, Exception):
        return f"{type(outcome).__name__} ({str(outcome)[:150]})"
    return ", ".join(f"{t.dtype} {tuple(t.shape)}" for t in tree_leaves(outcome))
