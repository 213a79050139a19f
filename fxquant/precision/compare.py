"""Where a quantised model departs from the float one, and how much of the final error each step of it makes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.api import trace
from fxquant.errors import InputError, UnsupportedGraphError, expect_iterable
from fxquant.graph.inputs import Batch
from fxquant.graph.meta import module_path, record_of, value_of
from fxquant.graph.stages import Stage, stage_of
from fxquant.inspection.links import links
from fxquant.inspection.measure_nodes import measure_nodes
from fxquant.precision.record_table import RecordTable, new_axes, shown
from fxquant.precision.run_outputs import Outputs, Shown, floats_of, read_batches
from fxquant.precision.steps import output_of, steps
from fxquant.precision.task_metrics import Metric, TaskMetric, task_metric
from fxquant.progress import Bar
from fxquant.reconstruction.evaluator import Evaluator


@dataclass(frozen=True)
class ComparedNode:
    """
    One node of a quantised graph beside the node of the float graph that gives the same values.

    module: the path of the module that it is of. sqnr: in dB; cosine: from -1 to 1; max_error: the largest absolute difference;
    all over the values of all images, with the errors of the nodes before it. share: how much of the energy of the final error
    goes away where this one step is computed in float from what the quantised model gives before it; None where no float
    number leaves the node, as where codes do: what makes the codes is then part of the step that reads them. Shares need not
    sum to 1: errors cancel and add up.
    """

    node: str
    module: str
    reference: str
    sqnr: float
    cosine: float
    max_error: float
    share: float | None


class Comparison(RecordTable[ComparedNode]):
    """
    The nodes of a quantised graph, in its order, and its outputs as a whole.

    error: ``|quantised - float| / |float|`` over all outputs. metric: the name of the task's metric; float_score,
    score: what it says of the float and of the quantised model, None without one.
    """

    header = ("node", "module", "SQNR dB", "cosine", "max error", "share of error")

    def __init__(
        self,
        records: Sequence[ComparedNode],
        error: float,
        metric: str | None,
        float_score: float | None,
        score: float | None,
    ) -> None:
        super().__init__(records)
        self.error, self.metric, self.float_score, self.score = error, metric, float_score, score

    def worst(self, count: int = 5) -> list[ComparedNode]:
        """Return the `count` nodes that make most of the final error, the worst first."""
        known = [record for record in self.records if record.share is not None]
        return sorted(known, key=lambda record: -(record.share or 0.0))[:count]

    def summary(self) -> list[str]:
        """Return the error of the outputs, and the metric."""
        lines = [f"error of the outputs: {self.error:.4f} of their norm"]
        if self.metric is not None:
            lines.append(f"{self.metric}: {self.score:.4g}, float {self.float_score:.4g}")
        return lines

    def cells(self, record: ComparedNode) -> tuple[str, ...]:
        """Return the line of one node."""
        figures = (f"{record.sqnr:.1f}", f"{record.cosine:.5f}", f"{record.max_error:.3g}", shown(record.share, ".1%"))
        return (record.node, record.module, *figures)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures, for JSON: an infinite SQNR is None."""
        records = [each | {"sqnr": _finite(each["sqnr"])} for each in super().to_dict()["records"]]
        facts = {"error": self.error, "metric": self.metric, "float_score": self.float_score, "score": self.score}
        return {**facts, "records": records}

    def plot(self) -> Any:
        """
        Return a figure of matplotlib: the SQNR along the depth of the model, and below it the shares of the error.

        Raises `InputError` where matplotlib is not installed.
        """
        top = new_axes(6.0)
        figure = top.figure
        figure.clear()
        above, below = figure.subplots(2, 1, sharex=True)
        places = range(len(self.records))
        above.plot(places, [_finite(r.sqnr) or math.nan for r in self.records], marker=".")
        above.set_ylabel("SQNR in dB")
        below.bar(places, [100 * (r.share or 0.0) for r in self.records])
        below.set_ylabel("% of the final error")
        few = [i for i in places if i % max(1, len(self.records) // 30) == 0]
        below.set_xticks(few, [self.records[i].reference for i in few], rotation=90, fontsize="small")
        return figure


def compare(
    float_model: nn.Module,
    quantized: fx.GraphModule,
    batches: Iterable[Batch],
    metric: Metric | str | None = None,
    *,
    shares: bool = True,
    progress: bool = True,
) -> Comparison:
    """
    Return how far each node of `quantized` is from the float model, and what part of the final error it makes.

    float_model: the model, its graph from `fxquant.trace`, or the graph from `fxquant.prepare` that was converted: where the
    recipe folds scales or rotations into the weights, as `default` does, only the last one computes the same values between
    the layers. quantized: a graph at any stage from `fxquant.convert`. batches: as for `fxquant.calibrate`; in a process group
    those of all ranks are meant, and each works on all of them. metric: "top1", "cosine" or a function of all outputs and
    targets, whose figure is larger where the model is better. shares: whether to measure them, which runs the rest of the graph
    once for each node.

    Raises `InputError` where there is no batch, `UnsupportedGraphError` for what is no quantised graph.
    """
    if not isinstance(quantized, fx.GraphModule) or stage_of(quantized) not in (Stage.QUANTISED, Stage.LOWERED):
        raise UnsupportedGraphError(
            f"compare expected a graph from fxquant.convert, not compiled, found a {type(quantized).__name__}"
        )
    expect_iterable(batches, "an iterable of batches")
    task = task_metric(metric)
    taken = read_batches(quantized, batches)
    reference = _graph_of(float_model, taken[0])
    measured = measure_nodes(reference, quantized, [each.inputs for each in taken])
    run = _SideBySide(reference, quantized, task, measured.keys() if shares else ())
    with Bar(len(taken), "compare", "batch", shown=progress, leave=False) as bar:
        for each in taken:
            run.add(each.inputs)
            bar.update()
    names = {n.name: n for n in quantized.graph.nodes}
    records = [
        ComparedNode(
            each.node,
            _place(names[each.node]),
            each.reference,
            each.sqnr,
            each.cosine,
            each.max_error,
            run.share(names[each.node]),
        )
        for each in measured.values()
    ]
    targets = [each.targets for each in taken]
    exact = run.exact.score(run.exact, targets)
    name = None if task is None else task.name
    return Comparison(records, run.full.error, name, exact, run.full.score(run.exact, targets))


class _SideBySide:
    """
    Both graphs, and what restoring each node gives.

    A node is restored where its float counterpart computes it from what the quantised graph gives at the nodes before it.
    """

    def __init__(
        self, reference: fx.GraphModule, quantized: fx.GraphModule, task: TaskMetric | None, wanted: Iterable[str]
    ) -> None:
        self.reference, self.quantized = reference, quantized
        self.float_run, self.run = Evaluator(reference), Evaluator(quantized)
        linked = links(reference.graph, quantized.graph)
        wanted = set(wanted)
        self.linked = {node: known for node, known in linked.items() if node.name in wanted and _alike(node, known)}
        self.borders = dict(_borders(self.float_run, quantized.graph, self.linked))
        self.exact, self.full = Outputs(task), Outputs(task)
        self.restored: dict[fx.Node, Outputs] = defaultdict(Outputs)

    def add(self, inputs: Sequence[Tensor]) -> None:
        """Run one batch."""
        places = [n for n in self.reference.graph.nodes if n.op == "placeholder"]
        given: dict[fx.Node, Any] = dict(zip(places, inputs, strict=True))
        with torch.no_grad():
            exact = floats_of(self.float_run.values((output_of(self.reference.graph),), given)[0])
        self.exact.add(exact, exact)
        for node, output in self._outputs(inputs, given):
            (self.full if node is None else self.restored[node]).add(exact, floats_of(output))

    def _outputs(self, inputs: Sequence[Tensor], given: dict[fx.Node, Any]) -> Iterator[tuple[fx.Node | None, Any]]:
        """Yield each node with what the model gives where it is restored, and None with what it gives as it is."""
        graph, output = self.quantized.graph, output_of(self.quantized.graph)
        before: fx.Node | None = None
        for node, known in steps(self.run, graph, inputs):
            if before is not None and before in known:
                given[self.linked[before]] = known[before]
            before = node if node in self.linked else None
            if node in self.linked:
                border = {each: given[each] for each in self.borders[node]}
                with torch.no_grad():
                    (value,) = self.float_run.values((self.linked[node],), border)
                    (found,) = self.run.values((output,), known | {node: value})
                yield node, found
            if node is output:
                with torch.no_grad():
                    (found,) = self.run.values((output,), known)
                yield None, found

    def share(self, node: fx.Node) -> float | None:
        """Return the share of the error's energy that restoring `node` takes away."""
        if node not in self.restored or not self.full.noise:
            return None
        return 1 - self.restored[node].noise / self.full.noise


def _borders(
    run: Evaluator, graph: fx.Graph, linked: Mapping[fx.Node, fx.Node]
) -> Iterator[tuple[fx.Node, frozenset[fx.Node]]]:
    """Yield for each linked node the float nodes before its counterpart whose values the quantised graph gives, too."""
    known = {n for n in run.module.graph.nodes if n.op == "placeholder"}  # type: ignore[union-attr]
    for node in graph.nodes:
        if node in linked:
            between = run.nodes_between((linked[node],), known)
            yield node, frozenset(used for each in between for used in each.all_input_nodes if used in known)
            known.add(linked[node])


def _graph_of(model: nn.Module, example: Shown) -> fx.GraphModule:
    if not isinstance(model, nn.Module):
        raise InputError(f"compare expected the float model, found a {type(model).__name__}")
    stage = stage_of(model) if isinstance(model, fx.GraphModule) else None
    if stage in (Stage.QUANTISED, Stage.LOWERED):
        raise UnsupportedGraphError(f"compare expected the float model first, found a graph at stage {stage}")
    return model if isinstance(model, fx.GraphModule) and stage is not None else trace(model, example.inputs)


def _alike(node: fx.Node, known: fx.Node) -> bool:
    """Say whether both give one float tensor of the same shape."""
    one, other = value_of(node), value_of(known)
    return one is not None and other is not None and one.is_floating_point() and one.shape[1:] == other.shape[1:]


def _place(node: fx.Node) -> str:
    record = record_of(node)
    return record.label if record is not None else module_path(node)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
