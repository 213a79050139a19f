"""Put an observer on each operand that will be quantised."""

from __future__ import annotations

from torch import fx, nn
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.attributes import tensor_of
from fxquant.config import TensorSpec
from fxquant.meta import Operand, record_of
from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder
from fxquant.rewrite import edit, inherit_meta

_HOME = "observers"


def insert_observers(gm: fx.GraphModule) -> PassResult:
    """
    Observe each operand that has a spec, and record each input of the model.

    Before:  y = linear(x, w, b)
    Becomes: y = linear(observers.fc_input(x), observers.fc_weight(w), b)

    Operands that are one value quantised one way share an observer. Weights are observed here, once.
    """
    return edit(gm, _insert)


def _insert(gm: fx.GraphModule) -> bool:
    if any(node.op == "call_module" for node in gm.graph.nodes):
        return False
    home = nn.Module()
    gm.add_module(_HOME, home)
    shared: dict[tuple[object, TensorSpec], fx.Node] = {}
    for node in list(gm.graph.nodes):
        record = record_of(node)
        for position, operand in enumerate(record.operands if record else ()):
            _observe(gm, home, node, position, operand, shared)
    for node in [n for n in gm.graph.nodes if n.op == "placeholder"]:
        with gm.graph.inserting_after(node):
            recorded = _call(gm, home, f"input_{node.name}", InputRecorder(node.name), node)
        node.replace_all_uses_with(recorded, delete_user_cb=lambda user, keep=recorded: user is not keep)
    return True


def _observe(
    gm: fx.GraphModule,
    home: nn.Module,
    node: fx.Node,
    position: int,
    operand: Operand,
    shared: dict[tuple[object, TensorSpec], fx.Node],
) -> None:
    if operand.spec is None:
        return
    source = node.args[position]
    if not isinstance(source, fx.Node):
        return
    key = (source.target if source.op == "get_attr" else source, operand.spec)
    if key not in shared:
        observer = operand.spec.build(operand.name)
        if source.op == "get_attr":
            observer(tensor_of(source))
            observer.frozen = True
        with gm.graph.inserting_after(source):
            shared[key] = _call(gm, home, operand.name.replace(".", "_"), observer, source)
    node.update_arg(position, shared[key])


def _call(gm: fx.GraphModule, home: nn.Module, name: str, module: Observer | InputRecorder, source: fx.Node) -> fx.Node:
    while hasattr(home, name):
        name = f"{name}_"
    home.add_module(name, module)
    node = gm.graph.call_module(f"{_HOME}.{name}", (source,))
    inherit_meta(node, source)
    node.meta.pop("fxquant", None)
    return node
