"""Put an observer on each operand that will be quantised."""

from __future__ import annotations

from collections.abc import Hashable

from torch import fx, nn
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.attributes import tensor_of
from fxquant.meta import Operand, Record, record_of
from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder
from fxquant.rewrite import blame, edit, inherit_meta


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
    inserter = _Inserter(gm)
    for node in list(gm.graph.nodes):
        record = record_of(node)
        with blame("insert_observers", node):
            for position, operand in enumerate(record.operands if record else ()):
                inserter.observe(node, position, operand, record)
    for index, node in enumerate([n for n in gm.graph.nodes if n.op == "placeholder"]):
        inserter.record_input(node, images=index == 0)
    return True


class _Inserter:
    """Keeps the observers of one graph module, and which operands share one."""

    def __init__(self, gm: fx.GraphModule) -> None:
        self.graph = gm.graph
        self.home, self.path = nn.Module(), "observers"
        while hasattr(gm, self.path):  # a model may call a part of its own so
            self.path += "_"
        gm.add_module(self.path, self.home)
        self.device = next((t.device for t in (*gm.parameters(), *gm.buffers())), None)
        self.shared: dict[Hashable, fx.Node] = {}

    def observe(self, node: fx.Node, position: int, operand: Operand, record: Record | None) -> None:
        """Let the operand at `position` of `node` pass through an observer."""
        source = node.args[position] if operand.spec is not None else None
        if operand.spec is None or not isinstance(source, fx.Node):
            return
        how = (operand.spec, record and record.search, record and record.noise)
        constant = source.op == "get_attr"
        # What is searched for a weight goes with what this product reads.
        key = (source.target, *how, node if record and record.search else None) if constant else (source, *how)
        if key not in self.shared:
            observer = operand.spec.build(operand.name)
            if constant:
                observer(tensor_of(source))
                observer.frozen = True
            self.shared[key] = self._call(operand.name.replace(".", "_"), observer, source)
        node.update_arg(position, self.shared[key])

    def record_input(self, node: fx.Node, images: bool) -> None:
        """Let an input of the model pass through a recorder."""
        recorded = self._call(f"input_{node.target}", InputRecorder(str(node.target), images), node)
        node.replace_all_uses_with(recorded, delete_user_cb=lambda user: user is not recorded)

    def _call(self, name: str, module: Observer | InputRecorder, source: fx.Node) -> fx.Node:
        while hasattr(self.home, name):
            name += "_"
        self.home.add_module(name, module.to(self.device))
        with self.graph.inserting_after(source):
            node = self.graph.call_module(f"{self.path}.{name}", (source,))
        inherit_meta(node, source)
        node.meta.pop("fxquant", None)
        return node
