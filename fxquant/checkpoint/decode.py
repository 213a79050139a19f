"""
A graph module from JSON and tensors.

Whatever the file says, this builds a legal graph of the dialect or raises an error; it calls nothing that the file names.
"""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, fx, nn

from fxquant.checkpoint import arguments, modules, node_meta, scalars, tensors, typed
from fxquant.checkpoint.names import check_identifier, check_path
from fxquant.checkpoint.scalars import Json, field
from fxquant.checkpoint.soundness.check import check_sound
from fxquant.dialect import vocabulary
from fxquant.errors import CheckpointError
from fxquant.graph.card import ModelCard
from fxquant.graph.code_tracer import CodeTracer
from fxquant.graph.meta import Capture, refuse_training, set_capture, set_card, set_model_dtype
from fxquant.graph.stages import Stage, set_stage
from fxquant.ops import make_output
from fxquant.ops.make_output import output_obstacle
from fxquant.ops.train_modules import BatchNorm
from fxquant.spec import verify

Kind = TypeVar("Kind", bound=fx.GraphModule)

_LATER = {"found_weight"}  # statistics that files of earlier releases lack, where they were empty


def decode_tensors(contents: Json, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by their keys, checked and unpacked."""
    descriptions = field(contents, "tensors", dict)
    if descriptions.keys() != stored.keys():
        odd = min(descriptions.keys() ^ stored.keys())
        raise CheckpointError(f"tensor {odd!r:.100} is {'missing' if odd in descriptions else 'not in the header'}")
    return {key: tensors.restore(key, descriptions[key], stored[key]) for key in stored}


def decode(contents: Json, values: dict[str, Tensor], kind: type[Kind]) -> Kind:
    """Return the graph module, one of `kind`, that `contents` describes, with `values` for its tensors."""
    graph = decode_graph(contents)
    gm = kind(nn.Module(), fx.Graph(), check_identifier(contents.get("class"), "class"))
    filled = tensors.fill(gm, field(contents, "slots", list), values)
    called: dict[str, nn.Module] = {}
    for data in field(contents, "modules", list):
        path = check_path(field(data, "path", str), "module")
        if path in called:
            raise CheckpointError(f"module {path!r} appears twice")
        called[path] = modules.decode(data)
        _put_module(gm, path, called[path])
    _check_targets(graph, filled, called)
    gm.train(field(contents, "training", bool))
    gm.graph = graph
    gm.graph.lint()
    stage = Stage(field(contents, "stage", str))
    set_stage(gm, stage)
    if contents.get("dtype") is not None:
        set_model_dtype(gm, scalars.dtype_named(contents["dtype"]))
    if contents.get("trainable") is False:
        refuse_training(gm)
    if contents.get("capture") is not None:
        set_capture(gm, typed.decode(contents["capture"], Capture))
    if "card" in contents:
        set_card(gm, typed.decode(contents["card"], ModelCard))
    verify(gm, stage)
    check_sound(gm)
    return gm


def decode_graph(contents: Json) -> fx.Graph:
    """Return the graph that `contents` describes; its modules and tensors are not looked for yet."""
    stacks = node_meta.decode_stacks(field(contents, "stacks", list))
    graph = fx.Graph(tracer_cls=CodeTracer)
    nodes: dict[str, fx.Node] = {}
    last = None
    for data in field(contents, "nodes", list):
        if last is not None and last.op == "output":
            raise CheckpointError("there are nodes behind the output")
        name = check_identifier(field(data, "name", str), "node")
        try:
            last = nodes[name] = _decode_node(graph, name, data, nodes)
            node_meta.decode(data, last, stacks)
        except CheckpointError as error:
            raise CheckpointError(f"node {name!r}: {error}") from error
    if last is None or last.op != "output":
        raise CheckpointError("the graph has no output")
    return graph


def _decode_node(graph: fx.Graph, name: str, data: Json, nodes: dict[str, fx.Node]) -> fx.Node:
    op = field(data, "op", str)
    args = tuple(arguments.decode(value, nodes) for value in field(data, "args", list))
    given = field(data, "kwargs", dict) if "kwargs" in data else {}
    kwargs = {check_identifier(key, "keyword"): arguments.decode(value, nodes) for key, value in given.items()}
    target = _target(op, data.get("target"))
    reason = vocabulary.refusal(op, target, args, kwargs) if op in _CALLS else _refusal(op, args, kwargs)
    if target is make_output and reason is None:
        reason = "make_output takes no keywords" if kwargs else output_obstacle(args)
    if op == "placeholder" and target in ("self", *(n.target for n in nodes.values() if n.op == op)):
        reason = f"the input {target!r} appears twice"
    if reason is not None:
        raise CheckpointError(reason)
    node = graph.create_node(op, target, args, kwargs, name)
    if node.name != name:
        raise CheckpointError("this name is taken")
    return node


_CALLS = ("call_function", "call_method")


def _target(op: str, target: Json) -> Any:
    if op == "call_function":
        function = vocabulary.function_named(target) if isinstance(target, str) else None
        if function is None:
            raise CheckpointError(f"the function {target!r:.100} is not in the dialect of this fxquant")
        return function
    if op in ("get_attr", "call_module"):
        return check_path(target, "target")
    return check_identifier(target, "target")


def _refusal(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Return why `args` are not those of a node that calls no function."""
    if kwargs:
        return f"{op} takes no keywords"
    if op == "placeholder":
        return None if not args else "placeholders with a default value are not in the dialect"
    if op == "get_attr":
        return None if not args else "get_attr takes no arguments"
    if op == "call_module":
        nodes = len(args) in (1, 5) and all(isinstance(a, fx.Node) or (i > 2 and a is None) for i, a in enumerate(args))
        return None if nodes else "observers take one value, batch norms five"
    if op == "output":
        return None if len(args) == 1 else "the output is one value"
    return f"unknown kind of node {op!r:.100}"


def _put_module(gm: fx.GraphModule, path: str, module: nn.Module) -> None:
    """Put the observer `module` at `path`, with the statistics that lie there already."""
    place = tensors.owner_of(gm, path)
    found = [*place.named_parameters(remove_duplicate=False), *place.named_buffers(remove_duplicate=False)]
    wanted = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    missing = wanted - {name for name, _ in found} - _LATER
    if missing:
        raise CheckpointError(f"module {path!r} lacks its statistic {min(missing)!r}")
    for name, tensor in found:
        modules.check_state(module, name, tensor)
        prefix, _, leaf = name.rpartition(".")
        owner = module.get_submodule(prefix)
        store: dict[str, Any] = owner._parameters if isinstance(tensor, nn.Parameter) else owner._buffers
        if leaf not in store:
            raise CheckpointError(
                f"statistic {name!r} of {path!r} is a parameter in one place and a buffer in the other"
            )
        store[leaf] = tensor
    parent, _, leaf = path.rpartition(".")
    tensors.owner_of(gm, parent)._modules[leaf] = module


def _check_targets(graph: fx.Graph, filled: set[str], called: dict[str, nn.Module]) -> None:
    for node in graph.nodes:
        if node.op == "get_attr" and node.target not in filled:
            raise CheckpointError(f"node {node.name!r} reads {node.target!r}, which is no tensor of the file")
        if node.op == "call_module" and node.target not in called:
            raise CheckpointError(f"node {node.name!r} calls {node.target!r}, which is no observer of the file")
        if node.op == "call_module" and (len(node.args) == 5) != isinstance(called[str(node.target)], BatchNorm):
            raise CheckpointError(f"node {node.name!r} does not call {node.target!r} as what it is")
