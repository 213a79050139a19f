"""How far each node of a quantised graph is from the node of the float graph that gives the same values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxquant.errors import InputError
from fxquant.graph.inputs import Arguments, Batch, moved
from fxquant.inspection.links import links
from fxquant.inspection.run_nodes import real_value, run_nodes


@dataclass(frozen=True)
class NodeMeasurement:
    """
    How far what one node gives is from what a float node gives, over all values of all batches.

    node, reference: names of both. sqnr: signal to quantisation noise in dB, ``10 log10(sum x^2 / sum (x - y)^2)``, infinite
    where the values are equal. cosine: of the angle between both, from -1 to 1. max_error: the largest absolute difference.
    """

    node: str
    reference: str
    sqnr: float
    cosine: float
    max_error: float


def measure_nodes(
    reference: fx.GraphModule, measured: fx.GraphModule, batches: Iterable[Batch]
) -> dict[str, NodeMeasurement]:
    """
    Return how far nodes of `measured` are from those of `reference`, by name, in the order of the graph.

    reference: a float or a prepared graph, whose observers see nothing of it. A prepared one has the same folds as what was
    converted from it, so that norms and rotated layers can be compared, too. measured: a graph of the same model at any stage.
    Both run side by side, so that few values are held at a time. Nodes without a counterpart are left out: see
    `fxquant.inspection.links.links`.

    Raises `InputError` where there is no batch, and for one that does not fit the graphs.
    """
    linked = links(reference.graph, measured.graph)
    found: dict[fx.Node, _Difference] = {}
    count = 0
    for inputs in graph_inputs(measured, batches):
        count += 1
        for node, x, y in _pairs(reference, measured, linked, inputs):
            found.setdefault(node, _Difference()).add(x, y)
    if not count:
        raise InputError("expected at least one batch of images to measure on, found none")
    return {node.name: found[node].measurement(node, linked[node]) for node in measured.graph.nodes if node in found}


def graph_inputs(gm: fx.GraphModule, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, ...]]:
    """Yield the inputs of each batch as `gm` takes them, on its device and in its dtype."""
    arguments = Arguments.of(gm)
    like = next((t for t in (*gm.parameters(), *gm.buffers()) if t.is_floating_point()), torch.empty(0))
    for batch in batches:
        yield moved(arguments.tensors(batch), like.device, like.dtype)


def _pairs(
    reference: fx.GraphModule,
    measured: fx.GraphModule,
    linked: dict[fx.Node, fx.Node],
    inputs: Sequence[Tensor],
) -> Iterator[tuple[fx.Node, Tensor, Tensor]]:
    """Yield each linked node with what its counterpart gives and what it gives itself."""
    float_run, wanted = run_nodes(reference, inputs), set(linked.values())
    held: dict[fx.Node, Tensor | None] = {}
    for node, values in run_nodes(measured, inputs):
        known = linked.get(node)
        if known is None:
            continue
        while known not in held:
            passed, exact = next(float_run)
            if passed in wanted:
                held[passed] = real_value(passed, exact[passed])
        x, y = held.pop(known), real_value(node, values[node])
        pair = None if x is None or y is None else _alike(x, y)
        if pair is not None:
            yield node, *pair


def _alike(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return both in one shape: attention gives its heads apart, ``(B, H, N, D)``, or in each token, ``(B, N, H * D)``."""
    if x.dim() != y.dim():
        x, y = (t.transpose(1, 2).flatten(2) if t.dim() == 4 else t for t in (x, y))
    return (x, y) if x.shape == y.shape else None


class _Difference:
    def __init__(self) -> None:
        self.signal = self.other = self.noise = self.product = self.largest = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        x, y = x.double(), y.double()
        difference = x - y
        self.signal += float(x.square().sum())
        self.other += float(y.square().sum())
        self.noise += float(difference.square().sum())
        self.product += float((x * y).sum())
        self.largest = max(self.largest, float(difference.abs().max()))

    def measurement(self, node: fx.Node, reference: fx.Node) -> NodeMeasurement:
        sqnr = 10 * math.log10(self.signal / self.noise) if self.signal and self.noise else math.inf
        norms = math.sqrt(self.signal * self.other)
        cosine = min(self.product / norms, 1.0) if norms else float(self.signal == self.other)
        return NodeMeasurement(node.name, reference.name, sqnr, cosine, self.largest)
