"""Spell the operators that torch.export records as the functional dialect does."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch._ops import OpOverload
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.dialect.aten_table import CHECKS, IDENTITIES, IGNORED, RESIZES, ROWS
from fxquant.graph.meta import any_value_of, copy_value, value_of
from fxquant.graph.rewrite import blame, edit

Spelling = tuple[Callable[..., Any] | str, tuple[Any, ...], dict[str, Any]]
_END = 2**62  # export writes the open end of a slice as the largest integer


def respell_aten(gm: fx.GraphModule) -> PassResult:
    """
    Spell the overloads of ``torch.ops.aten`` by functions and tensor methods, and drop those that do nothing at inference.

    Before:  aten.linear(x, w, b)   aten.view(y, [B, N, C])   aten.select.int(y, 1, 0)   aten.dropout(y, 0.1, False)
    Becomes: F.linear(x, w, b)      y.view(B, N, C)           y[:, 0]                    y

    An overload that has no other spelling stays, as does one called with an argument that the spelling lacks. Where nodes
    carry a value in ``meta["val"]``, casts to the dtype and device that a value has already are dropped too.
    """

    def change(module: fx.GraphModule) -> bool:
        modified = False
        for node in list(module.graph.nodes):
            if isinstance(node.target, OpOverload) and node.target.namespace == "aten":
                with blame("respell_aten", node):
                    modified |= _respell(node, node.target)
        return modified

    return edit(gm, change)


def _respell(node: fx.Node, overload: OpOverload) -> bool:
    name = str(overload).removeprefix("aten.")
    if overload._schema.is_mutable and not node.users:
        return False  # under any other spelling it would be taken for dead code
    if name in CHECKS:
        node.graph.erase_node(node)
        return True
    if name == "_native_batch_norm_legit_no_training.default":
        return _drop_statistics(node, _given(node, overload))
    new = _spell(name, node, _given(node, overload), _defaults(overload))
    if new is None:
        return False
    if isinstance(new, fx.Node):
        node.replace_all_uses_with(new)
        node.graph.erase_node(node)
    else:
        # Changed in its place, so that it keeps its name, which is the one symbolic tracing gives.
        node.target, node.args, node.kwargs = new
        node.op = "call_method" if isinstance(node.target, str) else "call_function"
    return True


def _drop_statistics(node: fx.Node, given: dict[str, Any]) -> bool:
    """Spell a batch norm that returns statistics as well, which torch's functionalisation makes, where nothing reads them."""
    if any(user.target is not operator.getitem or user.args[1] != 0 for user in node.users):
        return False
    statistics = (given["running_mean"], given["running_var"])
    node.target = F.batch_norm
    node.args = (given["input"], *statistics, given["weight"], given["bias"], False, given["momentum"], given["eps"])
    for user in list(node.users):
        copy_value(node, user)
        user.replace_all_uses_with(node)
        node.graph.erase_node(user)
    return True


def _given(node: fx.Node, overload: OpOverload) -> dict[str, Any]:
    names = [argument.name for argument in overload._schema.arguments]
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def _defaults(overload: OpOverload) -> dict[str, Any]:
    return {a.name: a.default_value for a in overload._schema.arguments if a.has_default_value()}


def _spell(name: str, node: fx.Node, given: dict[str, Any], defaults: dict[str, Any]) -> Spelling | fx.Node | None:
    """Return the call that computes what `node` does, or the node that has its value already; None to leave it."""
    if name in IDENTITIES:
        return node.all_input_nodes[0] if given.get("train") is not True else None
    if name in ROWS:
        target, words = ROWS[name]
        return _from_row(target, words, given, defaults)
    if name in RESIZES:
        return _resize(given, *RESIZES[name])
    rule = _RULES.get(name)
    return rule(given) if rule else None


def _from_row(
    target: Callable[..., Any] | str, words: str, given: dict[str, Any], defaults: dict[str, Any]
) -> Spelling | None:
    before, _, after = words.partition("/")
    positional, keywords = before.split(), after.split()
    names = [word.lstrip("*") for word in positional]
    others = {name: value for name, value in given.items() if value not in (defaults.get(name), torch.strided)}
    if not others.keys() <= {*names, *keywords, *IGNORED}:
        return None
    count = max(i for i, name in enumerate(names) if name in given) + 1
    args: list[Any] = []
    for word, name in zip(positional[:count], names, strict=False):
        value: Any = given.get(name, defaults.get(name))
        args += value if word.startswith("*") else [_tuple_of_sizes(value)]
    kwargs: dict[str, Any] = {name: others[name] for name in keywords if name in others}
    if "inplace=True" in keywords:
        kwargs["inplace"] = True
    return target, tuple(args), kwargs


def _tuple_of_sizes(value: Any) -> Any:
    # Lists of numbers are written as tuples in models; lists of tensors are lists there too.
    numbers = isinstance(value, list) and not any(isinstance(v, fx.Node) and _holds_tensor(v) for v in value)
    return tuple(value) if numbers else value


def _holds_tensor(node: fx.Node) -> bool:
    return not isinstance(any_value_of(node), int | torch.SymInt)


def _slice(given: dict[str, Any]) -> Spelling | fx.Node | None:
    source, start, end, step = given["self"], given.get("start"), given.get("end"), given.get("step", 1)
    dim = _dim(given)
    if dim is None:
        return None
    if isinstance(end, int) and (end >= _END or end == _size(source, dim)):
        end = None
    start = None if start == 0 else start
    if start is None and end is None and step == 1:
        return source  # type: ignore[no-any-return]
    return operator.getitem, (source, (*[slice(None)] * dim, slice(start, end, None if step == 1 else step))), {}


def _select(given: dict[str, Any]) -> Spelling | None:
    dim = _dim(given)
    if dim is None:
        return None
    index = (*[slice(None)] * dim, given["index"])
    return operator.getitem, (given["self"], index if dim else given["index"]), {}


def _index(given: dict[str, Any]) -> Spelling:
    index = tuple(slice(None) if i is None else i for i in given["indices"])
    return operator.getitem, (given["self"], index if len(index) > 1 else index[0]), {}


def _dim(given: dict[str, Any]) -> int | None:
    dim: int = given.get("dim", 0)
    value = value_of(given["self"])
    if dim >= 0:
        return dim
    return None if value is None else dim + value.ndim


def _size(source: fx.Node, dim: int) -> object:
    value = value_of(source)
    return None if value is None else value.shape[dim]


def _cast(given: dict[str, Any]) -> Spelling | fx.Node | None:
    source, device, dtype = given["self"], given.get("device"), given.get("dtype")
    value = value_of(source)
    if value is None or (device is not None and not _same_device(device, value.device)):
        return None
    if given.get("memory_format") not in (None, torch.preserve_format):
        return None
    kwargs = {"copy": True} if given.get("copy") else {}
    if dtype in (None, value.dtype) and not kwargs:
        return source  # type: ignore[no-any-return]
    return "to", (source, dtype or value.dtype), kwargs


def _cast_like(given: dict[str, Any]) -> Spelling | fx.Node | None:
    source, other = given["self"], given["other"]
    value, wanted = value_of(source), value_of(other)
    if value is not None and wanted is not None and value.dtype == wanted.dtype and value.device == wanted.device:
        return source  # type: ignore[no-any-return]
    return "type_as", (source, other), {}


def _slice_scatter(given: dict[str, Any]) -> Spelling | fx.Node:
    source, place, dim, start, end, step = (given.get(k) for k in ("src", "self", "dim", "start", "end", "step"))
    if start in (None, 0) and isinstance(end, int | None) and (end or _END) >= _END and step in (None, 1):
        return source  # type: ignore[return-value]
    return torch.slice_scatter, (place, source, dim or 0, start, end, step or 1), {}


def _copy(given: dict[str, Any]) -> Spelling | fx.Node | None:
    # What is left of an assignment ``x[i] = source`` once it is a value: the source in the shape of x[i].
    source, place = given["src"], given["self"]
    value, wanted = value_of(source), value_of(place)
    if value is None or wanted is None or value.dtype != wanted.dtype or value.device != wanted.device:
        return None
    return source if value.shape == wanted.shape else ("expand_as", (source, place), {})


def _resize(given: dict[str, Any], mode: str, antialias: bool) -> Spelling:
    sizes = {"size": given.get("output_size"), "scale_factor": given.get("scale_factors")}
    options = {"align_corners": given.get("align_corners") or None, "antialias": antialias or None}
    kwargs = {name: _tuple_of_sizes(value) for name, value in (sizes | options).items() if value is not None}
    return F.interpolate, (given["input"],), kwargs | {"mode": mode}


def _same_device(one: torch.device, other: torch.device) -> bool:
    return one.type == other.type and (one.index is None or other.index is None or one.index == other.index)


_RULES: dict[str, Callable[[dict[str, Any]], Spelling | fx.Node | None]] = {
    "slice.Tensor": _slice,
    "select.int": _select,
    "mT.default": lambda given: ("transpose", (given["self"], -2, -1), {}),
    "index.Tensor": _index,
    "to.dtype": _cast,
    "to.device": _cast,
    "to.dtype_layout": _cast,
    "_to_copy.default": _cast,
    "to.other": _cast_like,
    "type_as.default": _cast_like,
    "copy.default": _copy,
    "slice_scatter.default": _slice_scatter,
}
