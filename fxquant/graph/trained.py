"""Learned quantisers in a graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import fx, nn

from fxquant.graph.attributes import called_module, tensor_of
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
        module = called_module(node)
        if isinstance(module, LearnedWeightQuantizer) and str(node.target) not in seen:
            seen.add(str(node.target))
            yield module, cast(nn.Parameter, tensor_of(node.args[0]))
