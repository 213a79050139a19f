"""How far each node of a quantised graph is from the node of the float graph that gives the same values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxquant.errors import InputError
from fxquant.graph.inputs import Arguments, Batch, moved
from fxquant.graph.meta import record_of
from fxquant.inspection.links import links, residual_of
from fxquant.inspection.run_nodes import gives_codes, real_value, run_nodes


@dataclass(frozen=True)
class NodeMeasurement:
    """
    How far what one node gives is from what a float node gives, over all values of all batches.

    node, reference: names of both. sqnr: signal to quantisation noise in dB, ``10 log10(sum x^2 / sum (x - y)^2)``, infinite
    where the values are equal. cosine: of the angle between both, from -1 to 1. max_error: the largest absolute difference.
    alone: the same of a product that adds a residual, without what it adds.
    """

    node: str
    reference: str
    sqnr: float
    cosine: float
    max_error: float
    alone: NodeMeasurement | None = None


@dataclass(frozen=True, eq=False)
class _Counterpart:
    """A node with the float one that it is compared with; residual: what is taken off its value first."""

    node: fx.Node
    known: fx.Node
    residual: fx.Node | None = None


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
    counterparts = _counterparts(reference.graph, measured.graph)
    found: dict[_Counterpart, _Difference] = {}
    count = 0
    for inputs in graph_inputs(measured, batches):
        count += 1
        for counterpart, x, y in _pairs(reference, measured, counterparts, inputs):
            found.setdefault(counterpart, _Difference()).add(x, y)
    if not count:
        raise InputError("expected at least one batch of images to measure on, found none")
    result: dict[str, NodeMeasurement] = {}
    for each in counterparts:  # the product alone comes before the sum
        if each in found:
            result[each.node.name] = found[each].measurement(each, result.get(each.node.name))
    return {node.name: result[node.name] for node in measured.graph.nodes if node.name in result}


def _counterparts(reference: fx.Graph, measured: fx.Graph) -> list[_Counterpart]:
    alone = links(reference, measured, alone=True)
    named = (_Counterpart(node, known, residual_of(node)) for node, known in alone.items())
    products = [each for each in named if each.residual is not None]
    return [*products, *(_Counterpart(node, known) for node, known in links(reference, measured).items())]


def drops(gm: fx.GraphModule, found: Mapping[str, NodeMeasurement]) -> dict[str, float]:
    """
    Return by how many dB the SQNR of each measured node, alone where it adds a residual, is below that of what it reads.

    What one node loses all behind it carry on; this tells them apart. Rounding an operand counts for the product that reads it,
    unless a product rounds its own result. Nodes that read nothing but exact values have none.
    """
    carried: dict[fx.Node, float] = {}
    result: dict[str, float] = {}
    for node in gm.graph.nodes:
        rounds = gives_codes(node) and record_of(node) is None
        residual, measured = residual_of(node), None if rounds else found.get(node.name)
        read = min((carried[n] for n in node.all_input_nodes if n is not residual), default=math.inf)
        carried[node] = read if measured is None else measured.sqnr
        if measured is not None and math.isfinite(read):
            result[node.name] = read - (measured.alone or measured).sqnr
    return result


def graph_inputs(gm: fx.GraphModule, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, ...]]:
    """Yield the inputs of each batch as `gm` takes them, on its device and in its dtype."""
    arguments = Arguments.of(gm)
    like = next((t for t in (*gm.parameters(), *gm.buffers()) if t.is_floating_point()), torch.empty(0))
    for batch in batches:
        yield moved(arguments.tensors(batch), like.device, like.dtype)


def _pairs(
    reference: fx.GraphModule,
    measured: fx.GraphModule,
    counterparts: Sequence[_Counterpart],
    inputs: Sequence[Tensor],
) -> Iterator[tuple[_Counterpart, Tensor, Tensor]]:
    """Yield each of the counterparts with the float values and those that were measured."""
    float_run, wanted = run_nodes(reference, inputs), {each.known for each in counterparts}
    by_node: dict[fx.Node, list[_Counterpart]] = {}
    for each in counterparts:
        by_node.setdefault(each.node, []).append(each)
    held: dict[fx.Node, Tensor | None] = {}
    for node, values in run_nodes(measured, inputs):
        for each in by_node.get(node, ()):
            while each.known not in held:
                passed, exact = next(float_run)
                if passed in wanted:
                    held[passed] = real_value(passed, exact[passed])
            x, y = held.pop(each.known), real_value(node, values[node])
            if y is not None and each.residual is not None:
                y = y - values[each.residual]
            pair = None if x is None or y is None else _alike(x, y)
            if pair is not None:
                yield each, *pair


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

    def measurement(self, of: _Counterpart, alone: NodeMeasurement | None) -> NodeMeasurement:
        sqnr = 10 * math.log10(self.signal / self.noise) if self.signal and self.noise else math.inf
        norms = math.sqrt(self.signal * self.other)
        cosine = min(self.product / norms, 1.0) if norms else float(self.signal == self.other)
        return NodeMeasurement(of.node.name, of.known.name, sqnr, cosine, self.largest, alone)
