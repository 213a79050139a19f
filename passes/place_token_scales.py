"""Give scales per token to those operands that have outlier tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch.nn.functional as F
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from fxquant.graph.attributes import called_module
from fxquant.graph.meta import record_of, set_record
from fxquant.graph.rewrite import blame, edit
from fxquant.observers.operand_spec import OperandSpec
from fxquant.observers.outlier_tokens import OutlierTokensObserver


def place_token_scales(gm: fx.GraphModule) -> PassResult:
    """
    Decide by what calibration saw which operands of the granularity `OutlierTokens` have a scale per token.

    Before:  y = linear(observers.fc_input(x), observers.fc_weight(w), b)     # record of y: input OutlierTokens(3.0)
    Becomes: the same graph                                                   # PerToken() or PerTensor(), and token_ratio 6.8

    The observer and the records of all products that read it are settled the same way.
    """
    return edit(gm, _place)


def _place(gm: fx.GraphModule) -> bool:
    modified = False
    for node in gm.graph.nodes:
        record, observer = record_of(node), called_module(node.args[0]) if node.target is F.linear else None
        if record is None or not isinstance(observer, OutlierTokensObserver):
            continue
        with blame("place_token_scales", node):
            observer.settle()
            read, *others = record.operands
            read = replace(read, spec=cast(OperandSpec, observer.spec), token_ratio=observer.token_ratio)
            modified |= read != record.operands[0]
            set_record(node, replace(record, operands=(read, *others)))
    return modified
