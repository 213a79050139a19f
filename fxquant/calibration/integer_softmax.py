"""Run a prepared model with the integer softmax in place of the float one."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import fx

from fxquant.graph import dataflow
from fxquant.observers.base import Observer
from fxquant.observers.log2 import refuse_coarse
from fxquant.ops import dequantize_log2, log_int_softmax


def has_integer_softmax(prepared: fx.GraphModule) -> bool:
    """Say whether a prepared model will compute any softmax on integers."""
    return any(_qmax(module) is not None for module in prepared.modules())


class RunIntegerSoftmax(fx.Interpreter):
    """
    Run a batch as a plain call does, but compute each softmax that becomes a `LogIntSoftmax` on integers.

    Observers behind it then see the probabilities of the converted model. The scores themselves stay float. Their scale is the
    one observed so far, with this batch: FQ-ViT calibrates its last batch like this.
    """

    def __init__(self, prepared: fx.GraphModule) -> None:
        super().__init__(prepared)
        self.extra_traceback = False  # observers say themselves which node it was

    def run_node(self, n: fx.Node) -> Any:
        """Compute one node."""
        qmax = next((q for user in n.users if (q := _qmax(self._module(user))) is not None), None)
        if n.target is not F.softmax or qmax is None:
            return super().run_node(n)
        scores = n.args[0]
        observer = self._module(dataflow.behind_sums(scores))
        if not isinstance(scores, fx.Node) or not isinstance(observer, Observer):
            return super().run_node(n)  # which convert refuses
        scale = observer.calculate_qparams().scale
        refuse_coarse(scale, observer.operand)
        return dequantize_log2(log_int_softmax(self.env[scores], scale, qmax))

    def _module(self, node: object) -> object:
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        return self.fetch_attr(str(node.target))


def _qmax(module: object) -> int | None:
    """Return the largest exponent of what an integer softmax gives, None for anything else."""
    return module.spec.qmax if isinstance(module, Observer) and module.integer_softmax else None
