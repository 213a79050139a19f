"""
Tensors and modules that the nodes of a graph module name: read them, add them, and drop those that no node reads.

Also the weight, the bias and the settings of linear layers and convolutions.
"""

from __future__ import annotations

import copy
import functools
import keyword
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, fx, nn

from fxquant.graph.card import ATTRIBUTES
from fxquant.graph.meta import set_value


def get_tensor(gm: nn.Module, target: str) -> Tensor:
    """Return the parameter or buffer a ``get_attr`` node names."""
    owner, _, name = target.rpartition(".")
    value = getattr(gm.get_submodule(owner), name)
    if not isinstance(value, Tensor):
        raise AttributeError(f"{target!r} is a {type(value).__name__}, not a tensor")
    return value


Kind = TypeVar("Kind", bound=fx.GraphModule)


def graph_module_over(state: Mapping[str, Tensor], graph: fx.Graph, name: str, kind: type[Kind]) -> Kind:
    """
    Return the module of class `name`, one of `kind`, that runs `graph` over the tensors of `state` by name, in evaluation mode.

    Names that would hide a part of the module itself, or that Python code cannot spell, are changed in `graph` first.
    """
    legal: dict[str, str] = {}
    for node in graph.find_nodes(op="get_attr"):
        target = str(node.target)
        if target not in legal:
            legal[target] = _unused(legal_path(target), legal.values())
        node.target = legal[target]
    return kind({legal[target]: state[target] for target in legal}, graph, name).eval()


def copied_graph(gm: fx.GraphModule) -> fx.GraphModule:
    """Return another graph over the same tensors."""
    twin = fx.GraphModule(gm, copy.deepcopy(gm.graph), type(gm).__name__)
    twin.meta = dict(gm.meta)
    return twin


def legal_path(path: str) -> str:
    """Return the dotted `path` with each part such that generated code can read it from a graph module."""
    first, *rest = path.split(".")
    return ".".join([_legal(first, _own_attributes()), *(_legal(part, frozenset()) for part in rest)])


def _legal(part: str, reserved: frozenset[str]) -> str:
    spelt = re.sub(r"\W", "_", part, flags=re.ASCII)
    if spelt in reserved or keyword.iskeyword(spelt):
        return f"{spelt}_"
    return spelt if spelt.isdigit() or (spelt.isidentifier() and not spelt.startswith("__")) else f"n{spelt}"


def _unused(wanted: str, taken: Iterable[str]) -> str:
    unique, count, used = wanted, 1, set(taken)
    while unique in used:
        unique, count = f"{wanted}_{count}", count + 1
    return unique


@functools.cache
def _own_attributes() -> frozenset[str]:
    """Return what a graph module has of its own, such as ``graph`` and ``meta``."""
    empty = fx.GraphModule(nn.Module(), fx.Graph())
    return frozenset((*dir(fx.GraphModule), *vars(empty), *ATTRIBUTES))


def add_buffer(gm: fx.GraphModule, wanted: str, value: Tensor) -> str:
    """Register `value` under the dotted name `wanted`, or the first free ``wanted_N``, and return the name used."""
    path, _, name = legal_path(wanted).rpartition(".")
    owner: nn.Module = gm
    for part in path.split(".") if path else ():
        child = getattr(owner, part, None)
        if not isinstance(child, nn.Module):
            part = part if child is None else f"{part}_"
            child = getattr(owner, part, None) or nn.Module()
            owner.add_module(part, child)
        owner = child
    unique, count = name, 1
    while hasattr(owner, unique):
        unique, count = f"{name}_{count}", count + 1
    owner.register_buffer(unique, value)
    prefix = next(n for n, m in gm.named_modules() if m is owner)
    return f"{prefix}.{unique}" if prefix else unique


def read_buffer(graph: fx.Graph, wanted: str, value: Tensor) -> fx.Node:
    """Register `value` near the name `wanted` and return a new ``get_attr`` node that reads it."""
    gm = graph.owning_module
    if gm is None:
        raise RuntimeError("the graph belongs to no module")
    node = graph.get_attr(add_buffer(gm, wanted, value.detach()))
    set_value(node, torch.empty_like(value, device="meta"))
    return node


def reads_tensor(value: object) -> bool:
    """Say whether `value` is a node that reads a parameter or buffer as it is."""
    return isinstance(value, fx.Node) and value.op == "get_attr"


def tensor_of(node: object) -> Tensor:
    """Return the tensor that a ``get_attr`` node reads."""
    if not isinstance(node, fx.Node) or node.op != "get_attr" or node.graph.owning_module is None:
        raise TypeError(f"{node!r} does not read a tensor")
    return get_tensor(node.graph.owning_module, str(node.target))


def release_tensor(node: fx.Node) -> None:
    """Let the module of a ``get_attr`` node hold nothing but the shape of what it reads, unless more than one node reads it."""
    gm, target = node.graph.owning_module, str(node.target)
    if gm is None:
        raise RuntimeError("the graph belongs to no module")
    readers = [user for each in node.graph.find_nodes(op="get_attr", target=target) for user in each.users]
    if len(readers) == 1:
        path, _, name = target.rpartition(".")
        owner, shape = gm.get_submodule(path), torch.empty_like(get_tensor(gm, target), device="meta")
        delattr(owner, name)
        owner.register_buffer(name, shape)


def called_module(node: object) -> nn.Module | None:
    """Return the module that a ``call_module`` node calls, None for any other node or value."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or node.graph.owning_module is None:
        return None
    return node.graph.owning_module.get_submodule(str(node.target))


def weight_of(product: fx.Node) -> Tensor:
    """Return the constant weight of a linear layer or convolution, observed or not."""
    weight = product.args[1]
    if isinstance(weight, fx.Node) and weight.op == "call_module":
        weight = weight.args[0]
    return tensor_of(weight)


def bias_of(product: fx.Node) -> Any:
    """Return the bias among the arguments of a linear layer or convolution, None where there is none."""
    return product.args[2] if len(product.args) > 2 else None


def set_bias(product: fx.Node, bias: fx.Node) -> None:
    """Let a linear layer or convolution add `bias`, ``(O,)``, in place of its own or of none."""
    product.args = (*product.args[:2], bias, *product.args[3:])


class Window(NamedTuple):
    """The settings of a convolution: pairs of rows and columns, the number of groups, or the name of a padding."""

    stride: Any
    padding: Any
    dilation: Any
    groups: int


def window_of(convolution: fx.Node) -> Window:
    """Return the settings of a convolution, defaults among them."""
    given: tuple[Any, ...] = convolution.args[3:]
    defaults: tuple[Any, ...] = (1, 0, 1, 1)
    stride, padding, dilation, groups = (*given, *defaults[len(given) :])
    return Window(_pair(stride), _pair(padding), _pair(dilation), groups)


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value if isinstance(value, str) else tuple(value)


def prune(gm: fx.GraphModule) -> None:
    """Drop every parameter, buffer and module that no node reads."""
    targets = {str(n.target) for n in gm.graph.nodes if n.op in ("get_attr", "call_module")}
    kept_modules = [str(n.target) for n in gm.graph.nodes if n.op == "call_module"]
    for module_name, module in list(gm.named_modules(remove_duplicate=False)):
        if any(module_name == kept or module_name.startswith(kept + ".") for kept in kept_modules):
            continue
        prefix = f"{module_name}." if module_name else ""
        for store in (module._parameters, module._buffers):
            for name in [n for n in store if prefix + n not in targets]:
                del store[name]
    gm.delete_all_unused_submodules()
    _drop_plain_tensors(gm, targets)


def own_tensors(gm: fx.GraphModule, shared: Iterable[Tensor]) -> None:
    """Copy the parameters and buffers that share memory with a tensor of `shared`; one with two names becomes one copy."""
    storages = {t.untyped_storage().data_ptr() for t in shared}
    copies: dict[int, Tensor] = {}
    for module in gm.modules():
        for store in (module._parameters, module._buffers):
            for name, value in store.items():
                if value is not None and value.untyped_storage().data_ptr() in storages:
                    if id(value) not in copies:
                        own = value.detach().clone()
                        copies[id(value)] = (
                            nn.Parameter(own, value.requires_grad) if name in module._parameters else own
                        )
                    store[name] = copies[id(value)]  # type: ignore[assignment]


def _drop_plain_tensors(gm: fx.GraphModule, targets: set[str]) -> None:
    # Tracing keeps constants as plain tensor attributes, which state_dict and .to(device) would miss: make them buffers.
    for target in sorted(targets):
        owner_name, _, name = target.rpartition(".")
        try:
            owner = gm.get_submodule(owner_name)
        except AttributeError:
            continue
        value = owner.__dict__.get(name)
        if isinstance(value, Tensor):
            del owner.__dict__[name]
            owner.register_buffer(name, value)
    for name in [n for n, v in vars(gm).items() if isinstance(v, Tensor) and n not in targets]:
        delattr(gm, name)
