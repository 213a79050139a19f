"""Run a graph on shapes alone, each operator within a budget, each operator of fxquant by its rule."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from fxquant.checkpoint.soundness import whole_numbers
from fxquant.checkpoint.soundness.budget import Budget
from fxquant.checkpoint.soundness.declared_inputs import MAX_AXES
from fxquant.checkpoint.soundness.kernel_checks import check_bias
from fxquant.checkpoint.soundness.operand_checks import Operands
from fxquant.checkpoint.soundness.operator_rules import RULES, check_given
from fxquant.errors import CheckpointError
from fxquant.graph.attributes import called_module, tensor_of
from fxquant.graph.calls import named
from fxquant.ops import make_output
from fxquant.ops.train_modules import BatchNorm


class _Unknown:
    """The value of an input that nothing declares, and of all that is computed from it."""


UNKNOWN = _Unknown()


def run_on_shapes(gm: fx.GraphModule, inputs: list[Tensor] | None) -> dict[fx.Node, Any]:
    """
    Return the value of each node of `gm`, tensors on the meta device, for `inputs`; `UNKNOWN` where it depends on others.

    Raises `CheckpointError` naming the node that does not accept its operands, or that would cost too much.
    """
    values: dict[fx.Node, Any] = {}
    given: Iterator[Any] = iter(inputs or ())
    parameters = sum(t.numel() for t in (*gm.parameters(), *gm.buffers()))
    budget = Budget(sum(t.numel() for t in inputs or ()), parameters)
    with torch.no_grad():
        for node in gm.graph.nodes:
            try:
                values[node] = next(given, UNKNOWN) if node.op == "placeholder" else _value(node, values, budget)
                _check(values[node])
            except Exception as error:
                reason = str(error) if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
                raise CheckpointError(f"node {node.name!r} ({node.op} {_name(node)}): {reason}") from error
    return values


def _value(node: fx.Node, values: dict[fx.Node, Any], budget: Budget) -> Any:
    if node.op == "get_attr":
        tensor = tensor_of(node)
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    if node.op == "call_function" and node.target in RULES:
        target: Any = node.target
        inspect.signature(target).bind(*args, **kwargs)  # `named` overlooks what is too much
        given, nodes = named(target, args, kwargs), named(target, node.args, node.kwargs)
        constants = {name: tensor_of(each) for name, each in nodes.items() if _is_constant(each)}
        check_given(node.target, nodes)
        return RULES[node.target](Operands(given, constants, UNKNOWN))
    if node.target is make_output:
        return args[-1]  # the values alone: a class may look at them
    if node.op == "output":
        return args[0]
    if any(values[each] is UNKNOWN for each in node.all_input_nodes):
        return UNKNOWN
    with budget:
        return _call(node, args, kwargs)


def _call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if node.op == "call_module":
        module = called_module(node)
        if not isinstance(args[0], Tensor):
            raise CheckpointError(f"expected a tensor to observe, found {args[0]!r:.100}")
        return module(*args) if isinstance(module, BatchNorm) else args[0]  # all others give back what they get
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    whole_numbers.check_call(node.target, args)
    check_bias(node.target, args, kwargs)
    if node.target is torch._assert and len(args) == 2 and not kwargs and isinstance(args[0], Tensor):
        if args[0].numel() != 1:
            raise CheckpointError(f"expected one truth value, found shape {tuple(args[0].shape)}")
        return None  # which one it is depends on values
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _check(value: Any) -> None:
    whole_numbers.check_result(value)
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor) and leaf.dim() > MAX_AXES:
            raise CheckpointError(f"expected at most {MAX_AXES} axes, found {leaf.dim()}")


def _is_constant(value: object) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr"


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
