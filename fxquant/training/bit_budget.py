"""How many bit operations a model needs at the bit widths that it has learned."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from fxquant.errors import ConfigError
from fxquant.graph.attributes import called_module
from fxquant.graph.meta import has_value, record_of
from fxquant.graph.shapes import propagate_shapes
from fxquant.inspection.report import multiply_accumulates
from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder

FLOAT_BITS = 32.0


def bit_operations(prepared: fx.GraphModule) -> Tensor:
    """
    Return the bit operations of one image, in units of 1e9, at the present widths of a graph of `fxquant.prepare_qat`.

    The result is 0-dim and has gradients for learned widths. Each product counts its multiply-accumulates times the bits of
    both operands. A float operand counts as 32 bits.

    Raises `ConfigError` where the model has not run yet, because the size of its images is then unknown.
    """
    batch = _with_shapes(prepared)
    total = torch.zeros((), device=next(prepared.parameters()).device)
    for node in prepared.graph.nodes:
        if record_of(node) is not None:
            count = (multiply_accumulates(node) or 0) / batch / 1e9
            total = total + count * _bits(node.args[0]) * _bits(node.args[1])
    return total


def _with_shapes(prepared: fx.GraphModule) -> int:
    """Give every node of the graph its shape, and return the batch size of these shapes."""
    recorders = [m for m in prepared.modules() if isinstance(m, InputRecorder)]
    if any(not int(r.batches) for r in recorders):
        raise ConfigError("bit operations depend on the image size: run the model on a batch first")
    examples, training = [r.example() for r in recorders], prepared.training
    output = next(n for n in prepared.graph.nodes if n.op == "output")
    if any(not has_value(n) for n in output.all_input_nodes):
        propagate_shapes(prepared.eval(), examples)
        prepared.train(training)
    return len(examples[0])


def _bits(argument: object) -> Tensor | float:
    module = called_module(argument)
    bits = module.trained_bits() if isinstance(module, Observer) else None
    return FLOAT_BITS if bits is None else bits
