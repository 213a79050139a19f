"""Whether the statistics of the observers of a prepared graph are of the sizes that their operands give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.errors import CheckpointError
from fxquant.graph.attributes import called_module, tensor_of
from fxquant.numerics.learned_step import WIDTHS
from fxquant.observers.adalog import AdaLogObserver
from fxquant.observers.base import Observer
from fxquant.observers.input_recorder import InputRecorder
from fxquant.observers.learned_step import LearnedStepQuantizer
from fxquant.observers.omse import OMSEObserver
from fxquant.observers.twin import TwinObserver, TwinSoftmaxObserver

_PER_SCALE = ("minimum", "maximum", "widest", "found_scale", "found_zero_point", "exponent", "origin", "size", "factor")


def check_statistics(gm: fx.GraphModule, values: Mapping[fx.Node, Any]) -> None:
    """Raise `CheckpointError` naming a node of `gm` whose observer holds statistics that are not of its operand."""
    observed = any(node.op == "call_module" for node in gm.graph.nodes)
    for node in gm.graph.nodes:
        if observed and node.op == "get_attr" and bool(tensor_of(node).isnan().any()):
            raise CheckpointError(f"node {node.name!r}: the tensor {node.target!r} holds NaN, and observers take none")
        module = called_module(node) if node.op == "call_module" else None
        if not isinstance(module, Observer | InputRecorder):
            continue
        try:
            if int(module.batches) < 0:
                raise CheckpointError(f"expected a number of batches, found {int(module.batches)}")
            value = values[node]
            if isinstance(module, Observer):
                _check_observer(module, node, value if isinstance(value, Tensor) else None)
        except Exception as error:
            raise CheckpointError(f"node {node.name!r}: {error}") from error


def _check_observer(observer: Observer, node: fx.Node, value: Tensor | None) -> None:
    source = node.args[0]
    if isinstance(source, fx.Node) and source.op == "get_attr" and not bool(tensor_of(source).isfinite().all()):
        raise CheckpointError(f"the weight {source.target!r} holds values that are not finite")
    scales = _count(observer, value)
    for name, tensor in [*observer.named_buffers(), *observer.named_parameters()]:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(f"statistic {name!r} is not finite")
        wanted = (
            [tuple(value.shape)] if name == "found_weight" and value is not None else _sizes(observer, name, scales)
        )
        if tensor.numel() and wanted is not None and tuple(tensor.shape) not in wanted:
            raise CheckpointError(f"statistic {name!r}: expected shape {wanted[0]}, found {tuple(tensor.shape)}")
        needed = observer.calibrated and name in (
            "minimum",
            "maximum",
            "widest",
            "histogram",
            "exponent",
            "origin",
            "errors",
            "scale",
        )
        if needed and not tensor.numel():
            raise CheckpointError(f"statistic {name!r} is empty, though {int(observer.batches)} batches were seen")


def _count(observer: Observer, value: Tensor | None) -> int | None:
    """Return how many scales an operand has; None where its shape is not known."""
    if observer.axis is None:
        return 1
    return None if value is None else int(observer.rows(value).shape[0])


def _sizes(observer: Observer, name: str, scales: int | None) -> list[tuple[int, ...]] | None:
    """Return the shapes that a statistic may have, None where any will do."""
    if isinstance(observer, TwinObserver) and name == "found_scale":
        return [(3,)]
    if isinstance(observer, AdaLogObserver) and name == "found_scale":
        return [(2,)]
    if isinstance(observer, TwinSoftmaxObserver) and name == "errors":
        return [tuple(observer.splits(torch.device("cpu")).shape)]
    if scales is None:
        return None
    if isinstance(observer, OMSEObserver) and name == "histogram":
        return [(2, scales, observer.grid.bins)]
    if isinstance(observer, LearnedStepQuantizer) and name in ("scale", "offset"):
        return [(len(WIDTHS), scales)] if observer.options.learned_bits else [(scales,)]
    return [(scales,)] if name in (*_PER_SCALE, "bits") else None
