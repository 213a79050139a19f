"""Compute chosen nodes of a prepared graph from known values of others, as the float model does or as after `convert`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.graph.attributes import called_module
from fxquant.observers.base import Observer
from fxquant.reconstruction.straight_through import StraightThrough

Plan = list[tuple[fx.Node, list[fx.Node]]]  # each node to run, and the values that nothing reads after it


class Evaluator(fx.Interpreter):
    """
    Run of a prepared graph what is asked for, and nothing else. Observers see nothing.

    operands: None lets every operand pass, as the float model has it.
    """

    def __init__(self, gm: fx.GraphModule, operands: StraightThrough | None = None) -> None:
        super().__init__(gm)
        self.operands = operands
        self.position = {node: i for i, node in enumerate(gm.graph.nodes)}
        self.plans: dict[tuple[tuple[fx.Node, ...], frozenset[fx.Node]], Plan] = {}

    def values(self, wanted: Sequence[fx.Node], known: Mapping[fx.Node, Any]) -> tuple[Any, ...]:
        """Return the values of the nodes `wanted`, computed from those that are `known`."""
        key = (tuple(wanted), frozenset(known))
        if key not in self.plans:
            self.plans[key] = self._plan(*key)
        self.env = dict(known)
        for node, unread in self.plans[key]:
            self.env[node] = self._run(node)
            for each in unread:
                del self.env[each]
        values = tuple(self.env[node] for node in wanted)
        self.env = {}
        return values

    def nodes_between(self, wanted: Iterable[fx.Node], known: Iterable[fx.Node]) -> list[fx.Node]:
        """Return the nodes that `values` would run, in order."""
        stack, needed = list(wanted), set[fx.Node]()
        known = set(known)
        while stack:
            node = stack.pop()
            if node not in needed and node not in known:
                needed.add(node)
                stack.extend(node.all_input_nodes)
        return sorted(needed, key=self.position.__getitem__)

    def _plan(self, wanted: tuple[fx.Node, ...], known: frozenset[fx.Node]) -> Plan:
        nodes, read = self.nodes_between(wanted, known), {*wanted, *known}
        plan: Plan = []
        for node in reversed(nodes):
            last = [n for n in node.all_input_nodes if n not in read]
            read.update(last)
            plan.append((node, last))
        return plan[::-1]

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return a constant of the model without the gradients that nobody reads."""
        value = super().get_attr(target, args, kwargs)
        return value.detach() if isinstance(value, Tensor) else value

    def _run(self, node: fx.Node) -> Any:
        if node.op == "call_module":
            value: Tensor = self.env[node.all_input_nodes[0]]
            observer = called_module(node)
            if self.operands is None or not isinstance(observer, Observer):
                return value
            return self.operands.quantized(observer, value)
        shift = self._shift(node)
        if shift is None:
            return self.run_node(node)
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        bias = shift if len(args) < 3 or args[2] is None else args[2] + shift
        return self.call_function(node.target, (*args[:2], bias.to(args[1].dtype), *args[3:]), kwargs)

    def _shift(self, node: fx.Node) -> Tensor | None:
        """Return what is added to the bias of a product, None for nothing."""
        observer = weight_observer(node)
        return None if self.operands is None or observer is None else self.operands.shift(observer)


def weight_observer(node: fx.Node) -> Observer | None:
    """Return the observer of the weight of a linear layer or convolution, None for any other node and for a float weight."""
    module = called_module(node.args[1]) if node.target in (F.linear, F.conv2d) else None
    return module if isinstance(module, Observer) else None
