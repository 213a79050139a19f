"""Put an observer on each operand that will be quantised."""

from __future__ import annotations

from collections.abc import Hashable

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.config.operands import Role
from fxquant.graph import dataflow
from fxquant.graph.attributes import tensor_of, weight_of
from fxquant.graph.meta import Operand, Record, drop_record, inherit_meta, record_of
from fxquant.graph.observer_home import ObserverHome
from fxquant.graph.rewrite import blame, edit


def insert_observers(gm: fx.GraphModule) -> PassResult:
    """
    Observe each operand that has a spec.

    Before:  y = linear(x, w, b)
    Becomes: y = linear(observers.fc_input(x), observers.fc_weight(w), b)

    Products that read one value and quantise it one way share its observer. A value that `ObserveValues` observed gets no
    other. The observer of a weight sees it here, once. A module that runs twice with one set of weights learns one set of
    steps.
    """
    return edit(gm, _insert)


def _insert(gm: fx.GraphModule) -> bool:
    inserter = _Inserter(gm)
    for node in list(gm.graph.nodes):
        record = record_of(node)
        with blame("insert_observers", node):
            for position, operand in enumerate(record.operands if record else ()):
                inserter.observe(node, position, operand, record)
    return inserter.modified


class _Inserter(ObserverHome):
    """Knows which operands share an observer."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.shared: dict[Hashable, fx.Node] = {}
        self.learned: dict[Hashable, fx.Node] = {}
        self.modified = False

    def observe(self, node: fx.Node, position: int, operand: Operand, record: Record | None) -> None:
        """Let the operand at `position` of `node` pass through an observer."""
        source = node.args[position] if operand.spec is not None else None
        if operand.spec is None or not isinstance(source, fx.Node) or dataflow.observed(source):
            return
        how = (operand.spec, record and record.search, record and record.noise, record and record.fit)
        constant = source.op == "get_attr"
        # What is found for a weight goes with what this product reads.
        own = node if record and (record.search or record.fit) else None
        key = (source.target, *how, own) if constant else (source, *how)
        if key not in self.shared:
            self.shared[key] = self._call_again(node, position, operand, record, source) or self._call_new(
                operand, source
            )
        if operand.spec.learns_step and record:
            self.learned[_site(node, position, operand, record)] = self.shared[key]
        node.update_arg(position, self.shared[key])
        self.modified = True

    def _call_new(self, operand: Operand, source: fx.Node) -> fx.Node:
        observer = operand.spec.build(operand.name)  # type: ignore[union-attr]
        if source.op == "get_attr":
            observer(tensor_of(source))
            observer.frozen = True
        return self.call(operand.name.replace(".", "_"), observer, source)

    def _call_again(
        self, node: fx.Node, position: int, operand: Operand, record: Record | None, source: fx.Node
    ) -> fx.Node | None:
        """Call the learned step that the same module had where it ran before, None where there is none."""
        before = self.learned.get(_site(node, position, operand, record)) if record and record.module else None
        if before is None or source.op == "get_attr":
            return None
        with self.graph.inserting_after(source):
            call = self.graph.call_module(str(before.target), (source,))
        inherit_meta(call, source)
        drop_record(call)
        return call


def _site(node: fx.Node, position: int, operand: Operand, record: Record) -> Hashable:
    """Return what two runs of one operand of one module have in common: the weights too, its own or those behind it."""
    weighted = record.operands[-1].role is Role.WEIGHT
    weights: Hashable = id(weight_of(node)) if weighted else dataflow.weights_behind(node)
    return (record.module, record.product, position, operand.spec, weights)
