"""What torch.export captured, as a graph module of the form that symbolic tracing gives; operators are left as they are."""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from fxquant.checkpoint.staged_graph import StagedGraph
from fxquant.errors import UnsupportedGraphError
from fxquant.graph.attributes import get_tensor, graph_module_over
from fxquant.graph.code_tracer import CodeTracer
from fxquant.graph.meta import known_value, module_stack, set_module_stack, set_value, take_provenance, value_of
from fxquant.graph.rewrite import location
from fxquant.ops import interpolate_scaled
from fxquant.tracing.outputs import unflatten_output

ModuleStack = dict[str, tuple[str, type]]
_ATEN = torch.ops.aten
_READS = (_ATEN.item.default, _ATEN._local_scalar_dense.default)
_ASSERTIONS = (
    _ATEN._assert_scalar.default,
    _ATEN.sym_constrain_range.default,
    _ATEN.sym_constrain_range_for_size.default,
)


def as_graph_module(model: nn.Module, program: ExportedProgram, output: Any) -> fx.GraphModule:
    """
    Return the graph of `program`, an export of `model`, over the parameters and buffers of `model` itself.

    output: what the model returned when it was exported; the results of `program` are the tensors in it.

    Placeholders have the names of forward's arguments, the output has the structure that the model returns, and regions of
    autocast and of gradient mode are inlined. Tensors that depend on nothing become buffers, and no node names a device.
    Assertions on the values of tensors are left out: they compute nothing, and shapes alone cannot answer them.
    """
    exported = program.module(check_guards=False)
    _inline_regions(exported)
    graph = fx.Graph(tracer_cls=CodeTracer)  # a new one: export's own generates code that flattens arguments
    results = pytree.tree_leaves(graph.graph_copy(exported.graph, {}))
    graph.output(unflatten_output(graph, output, results))
    _drop_value_assertions(graph)
    _restore_signature(model, graph)
    state = _bind_state(model, exported, graph)
    _free_devices(graph, state)
    for node in graph.find_nodes(op="call_function", target=torch.ops.fxquant.interpolate_scaled.default):
        node.target = interpolate_scaled
    modules = dict(model.named_modules(remove_duplicate=False))
    for node in graph.nodes:
        set_module_stack(node, _module_stack(modules, module_stack(node)))
    _place_attributes(graph)
    return graph_module_over(state, graph, type(model).__name__, StagedGraph)


def _inline_regions(gm: fx.GraphModule) -> None:
    """Replace calls of nested graphs, made by ``with torch.no_grad():`` and the like, by their bodies."""
    for node in list(gm.graph.nodes):
        if not isinstance(node.target, HigherOrderOperator):
            continue
        _check_region(node)
        reference = next(a for a in node.args if isinstance(a, fx.Node) and a.op == "get_attr")
        body = gm.get_submodule(str(reference.target))
        if not isinstance(body, fx.GraphModule):
            raise TypeError(f"expected the body of {node.name!r} to be a graph")
        _inline_regions(body)
        given = node.args[node.args.index(reference) + 1 :]
        with gm.graph.inserting_before(node):
            inputs = body.graph.find_nodes(op="placeholder")
            result = gm.graph.graph_copy(body.graph, dict(zip(inputs, given, strict=True)))
        _replace_results(node, result)
        gm.graph.erase_node(node)
        if not reference.users:
            gm.graph.erase_node(reference)


def _check_region(node: fx.Node) -> None:
    name = str(node.target)
    # The first arguments of a region of autocast are its device, dtype, and whether it is enabled.
    if name == "wrap_with_set_grad_enabled" or (name == "wrap_with_autocast" and node.args[2] is False):
        return
    raise UnsupportedGraphError(
        f"node {node.name!r}{location(node)} needs the operator {name}, which a quantised graph cannot hold: cast tensors "
        "with .to(dtype) in place of autocast, and let control flow depend on shapes alone"
    )


def _replace_results(node: fx.Node, result: Any) -> None:
    if isinstance(result, fx.Node):
        node.replace_all_uses_with(result)
    for user in list(node.users):
        if user.target is not operator.getitem:
            raise TypeError(f"{user.name!r} reads all results of {node.name!r} at once")
        user.replace_all_uses_with(result[user.args[1]])
        user.graph.erase_node(user)


def _drop_value_assertions(graph: fx.Graph) -> None:
    """Remove the numbers that are read from tensors for assertions alone, with these."""
    for read in [n for n in graph.nodes if n.target in _READS]:
        behind = _readers(read)
        if all(n.users or n.target in _ASSERTIONS for n in behind):
            for node in sorted(behind, reverse=True):
                graph.erase_node(node)


def _readers(node: fx.Node) -> set[fx.Node]:
    """Return `node` and all that depends on it."""
    stack, seen = [node], {node}
    while stack:
        new = set(stack.pop().users) - seen
        seen |= new
        stack.extend(new)
    return seen


def _restore_signature(model: nn.Module, graph: fx.Graph) -> None:
    """Name placeholders as forward does, and drop arguments that are no tensors: they keep the value of the example."""
    inputs = graph.find_nodes(op="placeholder")
    for node, parameter in zip(inputs, inspect.signature(model.forward).parameters.values(), strict=False):
        if parameter.kind is parameter.VAR_POSITIONAL:
            break
        node.target = parameter.name
    for node in inputs:
        if value_of(node) is None:
            graph.erase_node(node)


def _bind_state(model: nn.Module, exported: fx.GraphModule, graph: fx.Graph) -> dict[str, Tensor]:
    """Point each ``get_attr`` node to the first of the names its tensor has in `model`; return the tensors by name."""
    names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    state: dict[str, Tensor] = {}
    for node in graph.find_nodes(op="get_attr"):
        tensor = get_tensor(exported, str(node.target))
        node.target = names.get(id(tensor), str(node.target))
        set_value(node, tensor)
        state[node.target] = tensor
    return state


def _free_devices(graph: fx.Graph, state: dict[str, Tensor]) -> None:
    """Let no node name the device of the example: what depends on nothing becomes a buffer, the rest asks the input."""
    image = next(n for n in graph.find_nodes(op="placeholder") if value_of(n) is not None)
    for node in list(graph.nodes):
        if not isinstance(node.target, OpOverload):
            continue
        if not node.all_input_nodes and torch.Tag.nondeterministic_seeded not in node.target.tags:
            _make_buffer(node, state)
        elif node.kwargs.get("device") == known_value(image).device:
            kwargs = {key: value for key, value in node.kwargs.items() if key != "device"}
            if not any(value_of(n) is not None for n in node.all_input_nodes):
                with graph.inserting_before(node):
                    kwargs["device"] = graph.call_function(getattr, (image, "device"))
            node.kwargs = kwargs


def _make_buffer(node: fx.Node, state: dict[str, Tensor]) -> None:
    value = node.target(*node.args, **node.kwargs)  # type: ignore[operator]
    if not isinstance(value, Tensor):
        return
    name = f"constant_{node.name}"
    while name in state:
        name += "_"
    with node.graph.inserting_before(node):
        new = node.graph.create_node("get_attr", name)
    new.meta = dict(node.meta)
    set_value(new, value)
    state[name] = value
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def _module_stack(modules: dict[str, nn.Module], recorded: dict[str, tuple[str, Any]]) -> ModuleStack:
    """Return export's module stack as `torch.fx` writes it: by path, without the root, with classes for their names."""
    paths = (path.partition("@")[0] for path, _ in recorded.values())  # blocks.0@1 is the second call of blocks.0
    return {path: (path, type(modules[path])) for path in paths if path and path in modules}


def _place_attributes(graph: fx.Graph) -> None:
    """Read each parameter just before it is first used, as part of the module that uses it."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.find_nodes(op="get_attr"):
        if not node.users:
            graph.erase_node(node)
            continue
        first = min(node.users, key=order.__getitem__)
        first.prepend(node)
        take_provenance(node, first)
