"""Learned quantisers in a graph."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx, nn

from fxquant.observers.base import Observer
from fxquant.observers.learned_step import LearnedWeightQuantizer


def is_trained(gm: fx.GraphModule) -> bool:
    """Say whether `gm` was made by `fxquant.prepare_qat`."""
    return any(isinstance(module, Observer) and module.trained for module in gm.modules())


def weight_quantizers(prepared: nn.Module) -> Iterator[tuple[LearnedWeightQuantizer, nn.Parameter]]:
    """Yield each learned quantiser of a weight in a graph of `fxquant.prepare_qat`, with the weight, once."""
    if not isinstance(prepared, fx.GraphModule):
        raise TypeError(f"expected a graph of fxquant.prepare_qat, found a {type(prepared).__name__}")
    seen = set[str]()
    for node in prepared.graph.nodes:
        module = prepared.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, LearnedWeightQuantizer) and str(node.target) not in seen:
            seen.add(str(node.target))
            owner, _, name = str(node.args[0].target).rpartition(".")
            yield module, getattr(prepared.get_submodule(owner), name)
