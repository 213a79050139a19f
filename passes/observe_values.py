"""Put an observer on each value that a placement quantises."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.config.operands import Role
from fxquant.config.placement import Placement
from fxquant.errors import ConfigError
from fxquant.graph import dataflow
from fxquant.graph.attributes import called_module, tensor_of
from fxquant.graph.meta import model_dtype, module_path, record_of, set_record
from fxquant.graph.observer_home import ObserverHome
from fxquant.graph.products import fitted
from fxquant.graph.rewrite import blame, edit
from fxquant.graph.values import find_values
from fxquant.observers.base import Observer
from fxquant.observers.operand_spec import OperandSpec


@dataclass(frozen=True)
class ObserveValues:
    """
    Observe each value that `placement` has a spec for, whatever reads it.

    Before:  y = x + linear(h, w, b); z = layer_norm(y, ...)
    Becomes: y = observers.residual(x + observers.linear(linear(h, w, b))); z = observers.norm(layer_norm(y, ...))

    The record of a product then has, for each activation, the spec of the observed value that it reads, and none where that
    value has no observer. Raises `ConfigError` for a model that is not float32.
    """

    placement: Placement

    def __call__(self, gm: fx.GraphModule) -> PassResult:
        """Insert the observers."""
        return edit(gm, self._observe)

    def _observe(self, gm: fx.GraphModule) -> bool:
        if any(node.op == "call_module" for node in gm.graph.nodes):
            return False
        dtype = model_dtype(gm)
        if dtype is not torch.float32:
            raise ConfigError(f"a placement rounds float32 values, and this model is {dtype}: use model.float()")
        home, names, changed = ObserverHome(gm), set[str](), False
        for node, value in list(find_values(gm)):
            spec = fitted(self.placement.spec_for(value), node)
            if spec is None:
                continue
            changed = True
            with blame("observe_values", node):
                name = _unique(f"{module_path(node) or 'model'}.{value.value}", names)
                observer = spec.build(name)
                call = home.call(name.replace(".", "_"), observer, node)
                node.replace_all_uses_with(call, delete_user_cb=lambda user, call=call: user is not call)  # type: ignore[misc]
                if node.op == "get_attr":
                    observer(tensor_of(node))
                    observer.frozen = True
        for node in gm.graph.nodes:
            changed |= _record_observed(node)
        return changed


def _record_observed(product: fx.Node) -> bool:
    """Let the record of a product say how what it reads was observed; weights are not observed yet."""
    record = before = record_of(product)
    if record is None or record.reason is not None:
        return False
    operands = []
    for argument, operand in zip(product.args, record.operands, strict=False):
        observer = _observer_of(argument)
        spec = operand.spec if operand.role is Role.WEIGHT else cast("OperandSpec | None", observer and observer.spec)
        operands.append(replace(operand, spec=spec))
    # Nobody asked for an int8 product where an operand is float, or a power of two.
    integers = all(o.spec is not None and o.spec.int8_products for o in operands)
    record = replace(record, operands=tuple(operands), requested=record.requested and integers)
    if all(o.spec is None for o in operands):
        record = record.left_float("the placement quantises none of its operands")
    set_record(product, record)
    return record != before


def _observer_of(value: object) -> Observer | None:
    module = called_module(dataflow.observed(value))
    return module if isinstance(module, Observer) else None


def _unique(name: str, names: set[str]) -> str:
    unique, count = name, 1
    while unique in names:
        count += 1
        unique = f"{name}_{count}"
    names.add(unique)
    return unique
