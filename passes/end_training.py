"""Take out of a trained graph what only training needs."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.errors import UnsupportedGraphError
from fxquant.graph.attributes import called_module, read_buffer, tensor_of, weight_of
from fxquant.graph.calls import call
from fxquant.graph.dataflow import PRODUCTS
from fxquant.graph.meta import inherit_meta, record_of, set_record
from fxquant.graph.rewrite import blame, edit
from fxquant.observers.base import Observer
from fxquant.observers.operand_spec import OperandSpec
from fxquant.ops.train_modules import BATCH_NORM_OPERANDS, BatchNorm, DropPath


def end_training(gm: fx.GraphModule) -> PassResult:
    """
    Fix what training learned, and take out of the graph what `fxquant.prepare_qat` added for training.

    Before:  y = x + drop_path_3(batch_norm_0(h, mean, variance, w, b))
    Becomes: y = x + batch_norm(h, mean, variance, w, b, False, 0.1, 1e-5)

    Weights of one bit become the two values that they stand for. Learned bit widths are written into the specs. Where the row
    groups of a weight ``(O, K)`` have learned different widths, each group is clamped to the range of its own codes, and the
    spec names the widest. An input with a learned real offset gets a noisy bias ``(K,)``, minus that offset everywhere, and
    the bias of the layer takes off what it adds. A product of two activations has no bias: an offset of its operands raises
    `UnsupportedGraphError`. What is to be fixed the observers say.
    """
    return edit(gm, _end)


def _end(gm: fx.GraphModule) -> bool:
    modified = False
    settled: dict[str, Observer] = {}
    for node in list(gm.graph.nodes):
        module = called_module(node)
        with blame("end_training", node):
            if isinstance(module, DropPath):
                node.replace_all_uses_with(node.args[0])
                gm.graph.erase_node(node)
                modified = True
            elif isinstance(module, BatchNorm):
                _fix_statistics(gm, node, module)
                modified = True
            elif isinstance(module, Observer) and module.trained:
                modified |= _settle(gm, node, module)
                settled[str(node.target)] = module
    for node in gm.graph.nodes if settled else ():
        modified |= _update_record(node, settled)
    return modified


def _fix_statistics(gm: fx.GraphModule, node: fx.Node, module: BatchNorm) -> None:
    with gm.graph.inserting_before(node):
        given = dict(zip(BATCH_NORM_OPERANDS, node.args, strict=False))
        settings = {"training": False, "momentum": module.momentum, "eps": module.eps}
        new = call(gm.graph, F.batch_norm, given | settings, spelled_out=True)
    inherit_meta(new, node)
    node.replace_all_uses_with(new)
    gm.graph.erase_node(node)


def _settle(gm: fx.GraphModule, node: fx.Node, module: Observer) -> bool:
    source: fx.Node = node.args[0]  # type: ignore[assignment]
    weight = module.settled_weight(tensor_of(source)) if source.op == "get_attr" else None
    if weight is not None:
        with gm.graph.inserting_before(node):
            replaced = read_buffer(gm.graph, f"{source.target}_settled", weight)
        inherit_meta(replaced, source)
        node.update_arg(0, replaced)
    modified = module.settle() or weight is not None
    offset = module.fixed_offset()
    if offset is None or module.noise.numel():
        return modified
    products = [user for user in node.users if user.target in PRODUCTS]
    if len(products) != len(node.users) or any(p.target not in (F.linear, F.conv2d) for p in products):
        raise UnsupportedGraphError(
            f"node {module.operand!r} learned a real offset, which a product of two activations cannot take off: train with "
            "whole offsets (real_offset=False)"
        )
    module.noise = torch.full((weight_of(products[0])[0].numel(),), -offset)
    return True


def _update_record(node: fx.Node, settled: dict[str, Observer]) -> bool:
    """Let the record of a product name the widths that were learned."""
    record = before = record_of(node)
    if record is None:
        return False
    operands = []
    for argument, operand in zip(node.args, record.operands, strict=False):
        called = isinstance(argument, fx.Node) and argument.op == "call_module"
        module = settled.get(str(argument.target)) if called else None  # type: ignore[union-attr]
        spec = operand.spec if module is None else cast(OperandSpec, module.spec)
        operands.append(replace(operand, spec=spec))
    record = replace(record, operands=tuple(operands))
    set_record(node, record)
    return record != before
