"""What quantising each part of a model costs in accuracy, and what keeping it float saves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

from torch import fx, nn

from fxquant.api import calibrate, prepare
from fxquant.config.quant_config import QuantConfig
from fxquant.errors import ConfigError, expect_iterable, expect_path, expect_whole
from fxquant.graph.inputs import Batch
from fxquant.graph.stages import Stage, stage_of
from fxquant.observers.base import Observer
from fxquant.precision.estimated_error import estimated_energies
from fxquant.precision.float_graph import float_graph
from fxquant.precision.measured_states import MeasuredStates
from fxquant.precision.operand_groups import Grouping, OperandGroup, grouping_of, groups_of, kind_of_name
from fxquant.precision.record_table import RecordTable, new_axes, shown
from fxquant.precision.run_outputs import read_batches
from fxquant.precision.switches import refuse_unswitchable
from fxquant.precision.task_metrics import Metric, task_metric

PROBES = (
    8  # backward passes for each batch of the estimate: with 4 batches, a third off for a weight, less for activations
)
EXACT = 16
JOINT = 8


@dataclass(frozen=True)
class SiteCost:
    """
    What one part costs. All errors are ``|y - y_float| / |y_float|`` over all outputs and images.

    codes: how its operands are quantised. estimate: the error where it alone is quantised, from gradients. alone: the same,
    measured; saves: how much smaller the error is where all else is quantised and this is float; score: the task's metric
    there. The three are None where nothing was measured. Where the whole error is large, single roundings change all that
    follows, and `saves` tells less than `alone`: it may well be negative.
    """

    name: str
    codes: tuple[str, ...]
    estimate: float
    alone: float | None
    saves: float | None
    score: float | None

    @property
    def cost(self) -> float:
        """The error where it alone is quantised: measured, or the estimate."""
        return self.estimate if self.alone is None else self.alone


@dataclass(frozen=True)
class JointCost:
    """The error, and the task's metric, with all of `names` float and the rest quantised."""

    names: tuple[str, ...]
    error: float
    score: float | None


class SensitivityTable(RecordTable[SiteCost]):
    """
    The parts of a model, that which costs most alone first.

    error: of the whole model, quantised. joint: what is left where the first part is float, the first two, and so on. by: which
    operands form a part. metric: the name of the task's metric; float_score, score: what it says of the float and of the
    quantised model, None without one.
    """

    header = ("part", "codes", "estimate", "alone", "saves", "score")

    def __init__(
        self,
        records: Sequence[SiteCost],
        error: float,
        joint: Sequence[JointCost],
        by: Grouping,
        scores: tuple[str | None, float | None, float | None],
    ) -> None:
        super().__init__(records)
        self.error, self.joint, self.by = error, tuple(joint), by
        self.metric, self.float_score, self.score = scores

    def kinds(self) -> dict[str, float]:
        """
        Return the error of the same part of all blocks together, by name with a star for a number, the largest first.

        The errors of the parts are taken to be independent: `by="kind"` measures them together.
        """
        energies: dict[str, float] = {}
        for record in self.records:
            kind = kind_of_name(record.name)
            energies[kind] = energies.get(kind, 0.0) + record.cost**2
        return {kind: math.sqrt(e) for kind, e in sorted(energies.items(), key=lambda item: -item[1])}

    def summary(self) -> list[str]:
        """Return the error of the whole, and what is left of it along the order."""
        lines = [f"error of the outputs: {self.error:.4f} of their norm, {len(self)} parts"]
        if self.metric is not None:
            lines.append(f"{self.metric}: {self.score:.4g}, float {self.float_score:.4g}")
        lines += [f"with {len(each.names)} float: {each.error:.4f}{_scored(each.score)}" for each in self.joint]
        return lines

    def cells(self, record: SiteCost) -> tuple[str, ...]:
        """Return the line of one part."""
        figures = (f"{record.estimate:.4f}", shown(record.alone, ".4f"), shown(record.saves, ".4f"))
        return (record.name, ", ".join(record.codes), *figures, shown(record.score, ".4g"))

    def to_dict(self) -> dict[str, Any]:
        """Return all figures, for JSON."""
        facts = {"by": self.by.value, "error": self.error, "metric": self.metric}
        scores = {"float_score": self.float_score, "score": self.score}
        return {**facts, **scores, "joint": [asdict(each) for each in self.joint], **super().to_dict()}

    def plot(self, count: int = 30) -> Any:
        """Return a figure of matplotlib: the first `count` parts, and the error that is left as more of them are float."""
        few = self.records[:count][::-1]
        axes = new_axes(1.5 + 0.25 * len(few))
        axes.barh([r.name for r in few], [r.cost for r in few], label="alone")
        left = {each.names[-1]: each.error for each in self.joint}
        known = [r.name for r in few if r.name in left]
        axes.plot(
            [left[name] for name in known],
            known,
            color="black",
            marker=".",
            label="left, with it and those above float",
        )
        axes.axvline(self.error, color="grey", linestyle=":", label="all quantised")
        axes.set_xlabel("error of the outputs, as a fraction of their norm")
        axes.legend()
        return axes.figure


def sensitivity(
    model: nn.Module,
    batches: Iterable[Batch],
    config: QuantConfig | None = None,
    *,
    by: Grouping | str = Grouping.OPERAND,
    metric: Metric | str | None = None,
    exact: int | None = EXACT,
    joint: int = JOINT,
    probes: int = PROBES,
    resume: str | PathLike[str] | None = None,
    progress: bool = True,
    seed: int = 0,
) -> SensitivityTable:
    """
    Return what quantising each part of `model` costs, and what keeping it float saves.

    model: any module, which is prepared with `config` and calibrated with `batches` once; or a graph that is calibrated
    already. batches: as for `fxquant.calibrate`; what is measured is measured on all of them. by: "operand", such as the input
    of one layer; "module", all that one layer reads; or "kind", the same operand of all blocks. metric: "top1", "cosine" or a
    function of all outputs and targets, larger where the model is better.

    The cost of each operand is estimated first, from `probes` backward passes for each batch, see
    `fxquant.precision.estimated_error`. Then the `exact` parts with the largest estimates are measured, None for all: each is
    quantised alone, and kept float alone, with no more of the graph run than what follows it. At last the `joint` parts that
    cost most are kept float together, one more each time. resume: a file that keeps what was measured, and is read where it is
    there. In a process group each rank gives its own batches and measures its share of the parts; all return the whole.

    Raises `ConfigError` for an option that is none, `InputError` where there is no batch, and `UnsupportedGraphError` for a
    model in which nothing is quantised, is trained, or has a softmax on integers.
    """
    grouping, task = grouping_of(by), task_metric(metric)
    for name, value, least in (("joint", joint, 0), ("probes", probes, 1), ("exact", 0 if exact is None else exact, 0)):
        expect_whole(name, value, least)
    file = None if resume is None else expect_path(resume)
    expect_iterable(batches, "an iterable of batches")
    batches = list(batches)
    prepared = _calibrated(model, batches, config, progress, seed)
    refuse_unswitchable(prepared)
    groups = groups_of(prepared, grouping)
    taken = read_batches(prepared, batches)
    states = MeasuredStates(prepared, taken, task, file, progress)
    energies = estimated_energies(prepared, taken, probes, seed, progress)
    estimates = {g: math.sqrt(sum(energies[o] for o in g.observers) / (states.exact.signal or 1.0)) for g in groups}
    chosen = sorted(groups, key=lambda g: -estimates[g])[: len(groups) if exact is None else exact]
    records = _measured(states, groups, estimates, chosen)
    named = {group.name: group for group in groups}
    order = [named[record.name] for record in records[:joint]]
    scores = (None if task is None else task.name, states.known["float"].score, states.known["all"].score)
    return SensitivityTable(records, states.known["all"].error, _joint(states, order), grouping, scores)


def _measured(
    states: MeasuredStates,
    groups: Sequence[OperandGroup],
    estimates: dict[OperandGroup, float],
    chosen: Sequence[OperandGroup],
) -> list[SiteCost]:
    nothing, everything = frozenset[Observer](), states.everything
    alone = states.measure({f"alone: {g.name}": (nothing, g.observers) for g in chosen}, "quantised alone")
    kept = {f"float: {g.name}": (everything, everything - g.observers) for g in chosen}
    without = states.measure(kept, "float alone")
    error = states.known["all"].error
    records = []
    for group in groups:
        measured = without.get(f"float: {group.name}")
        costs = (None, None, None)
        if measured is not None:
            costs = (alone[f"alone: {group.name}"].error, error - measured.error, measured.score)  # type: ignore[assignment]
        records.append(SiteCost(group.name, group.codes, estimates[group], *costs))
    return sorted(records, key=lambda record: -record.cost)


def _joint(states: MeasuredStates, order: Sequence[OperandGroup]) -> list[JointCost]:
    """Return what is left where the first of `order` is float, the first two, and so on."""
    wanted, kept = {}, frozenset[Observer]()
    for count, group in enumerate(order, 1):
        kept |= group.observers
        wanted[f"float together: {', '.join(g.name for g in order[:count])}"] = (
            states.everything,
            states.everything - kept,
        )
    found = states.measure(wanted, "float together").values()
    names = [tuple(g.name for g in order[:count]) for count in range(1, len(order) + 1)]
    return [JointCost(each, state.error, state.score) for each, state in zip(names, found, strict=True)]


def _calibrated(
    model: nn.Module, batches: Sequence[Batch], config: QuantConfig | None, progress: bool, seed: int
) -> fx.GraphModule:
    stage = stage_of(model) if isinstance(model, fx.GraphModule) else None
    if isinstance(model, fx.GraphModule) and stage not in (None, Stage.FLOAT):
        if config is not None:
            raise ConfigError("a graph that is prepared has its config already: give the model itself, or no config")
        return model
    return calibrate(prepare(float_graph(model, batches), config), batches, progress, seed=seed)


def _scored(score: float | None) -> str:
    return "" if score is None else f", {score:.4g}"
