"""How long each part takes on this device, with int8 products, with scales per token, and in float."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import fx

from fxquant.api import calibrate, compile, convert, prepare
from fxquant.config.quant_config import QuantConfig
from fxquant.graph.inputs import Batch
from fxquant.graph.meta import record_of
from fxquant.inspection.measure_nodes import graph_inputs
from fxquant.inspection.time_nodes import time_nodes
from fxquant.precision.part_options import Activations, PartOption
from fxquant.precision.parts import ModelPart, config_for

ROUNDS = 9


def part_seconds(
    traced: fx.GraphModule, config: QuantConfig, parts: Sequence[ModelPart], batch: Batch, progress: bool
) -> tuple[dict[ModelPart, dict[Activations, float]], float]:
    """
    Return the seconds of each part by its activations, and those of what belongs to none.

    The model is converted once with all parts as int8, once with scales per token and once in float, compiled for the device,
    and each node of it timed on the images of `batch`, medians of 9 runs. A part has the time of its products and of all that
    stands between them and the products before: what computes and quantises what it reads. Nodes are timed one by one, before
    the compiler fuses what is not a product.
    """
    seconds: dict[ModelPart, dict[Activations, float]] = {part: {} for part in parts}
    rest = 0.0
    for form in (Activations.INT8, Activations.INT8_PER_TOKEN, Activations.FLOAT):
        options = {part: _option(part, form) for part in parts}
        prepared = calibrate(prepare(traced, config_for(config, parts, options)), [batch], progress)
        compiled = compile(convert(prepared), example_inputs=batch)
        graph: fx.GraphModule = compiled.graph_module
        found = _by_part(graph, parts, time_nodes(graph, next(graph_inputs(graph, [batch])), ROUNDS))
        for part in parts:
            seconds[part][form] = found.get(part.name, 0.0)
        if form is Activations.INT8:
            rest = sum(found.values()) - sum(each[form] for each in seconds.values())
    return seconds, rest


def total_seconds(gm: fx.GraphModule, batch: Batch) -> float:
    """Return the seconds of all nodes of `gm`, compiled for the device, on the images of `batch`."""
    graph: fx.GraphModule = compile(gm, example_inputs=batch).graph_module
    return sum(time_nodes(graph, next(graph_inputs(graph, [batch])), ROUNDS).values())


def _option(part: ModelPart, form: Activations) -> PartOption:
    if form is Activations.FLOAT:
        return PartOption(None, form)
    return PartOption(part.base.weight_bits, form if part.linear else Activations.INT8)


def _by_part(gm: fx.GraphModule, parts: Sequence[ModelPart], seconds: Mapping[fx.Node, float]) -> dict[str, float]:
    names, found, waiting = {part.name for part in parts}, defaultdict[str, float](float), 0.0
    for node in gm.graph.nodes:
        waiting += seconds.get(node, 0.0)
        record = record_of(node)
        if record is not None and record.module in names:
            found[record.module] += waiting
            waiting = 0.0
    found[""] += waiting
    return found
