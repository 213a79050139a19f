"""Move biases by the mean error that calibration measured."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import bias_of, called_module, read_buffer, set_bias, tensor_of
from fxquant.graph.meta import record_of
from fxquant.graph.rewrite import blame, edit
from fxquant.observers.base import Observer


def correct_bias(gm: fx.GraphModule) -> PassResult:
    """
    Add the shift that a weight's observer holds to the bias of its product.

    Before:  y = linear(observers.fc_input(x), observers.fc_weight(w), b)
    Becomes: y = linear(observers.fc_input(x), observers.fc_weight(w), fc.bias_corrected)     # b + shift, float32 (O,)
    """
    return edit(gm, _correct)


def _correct(gm: fx.GraphModule) -> bool:
    modified = False
    for node in list(gm.graph.nodes):
        record = record_of(node)
        observer = _weight_observer(node)
        if record is None or observer is None or observer.bias_shift.numel() == 0:
            continue
        bias = bias_of(node)
        name = f"{record.label}.bias_corrected"
        if isinstance(bias, fx.Node) and (bias.op != "get_attr" or str(bias.target).startswith(name)):
            continue
        with blame("correct_bias", node), gm.graph.inserting_before(node):
            shift = observer.bias_shift
            corrected = shift if bias is None else tensor_of(bias).to(torch.float32) + shift
            set_bias(node, read_buffer(gm.graph, name, corrected))
        modified = True
    return modified


def _weight_observer(node: fx.Node) -> Observer | None:
    module = called_module(node.args[1]) if node.target in (F.linear, F.conv2d) else None
    return module if isinstance(module, Observer) else None
