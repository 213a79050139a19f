"""A config in which each part has the bits that a budget allows and its share of the error asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import fx, nn

from fxquant.api import calibrate, convert, prepare
from fxquant.config.operands import Role
from fxquant.config.quant_config import QuantConfig
from fxquant.config.recipes.book import recipe
from fxquant.errors import ConfigError, expect_iterable, expect_whole
from fxquant.graph.inputs import Batch
from fxquant.precision.choose_options import Chosen, Offer, costs_of, path_of
from fxquant.precision.estimated_error import estimated_energies
from fxquant.precision.float_graph import float_graph
from fxquant.precision.measured_states import MeasuredStates
from fxquant.precision.operand_groups import observed
from fxquant.precision.part_options import Activations, PartOption
from fxquant.precision.part_seconds import part_seconds, total_seconds
from fxquant.precision.parts import ModelPart, config_for, parts_of
from fxquant.precision.precision_budget import Cost, PrecisionBudget
from fxquant.precision.record_table import RecordTable, new_axes
from fxquant.precision.run_outputs import Shown, read_batches
from fxquant.precision.switches import refuse_unswitchable
from fxquant.precision.task_metrics import Metric, TaskMetric, task_metric
from fxquant.progress import Bar

ACTIVATIONS = tuple(form for form in Activations if form is not Activations.AS_CONFIGURED)
PROBES = 8


@dataclass(frozen=True)
class ChosenPart:
    """How one part is quantised; macs: its share of all multiply-accumulates; error: what it adds alone, as estimated."""

    name: str
    option: str
    changed: bool
    macs: float
    error: float


@dataclass(frozen=True)
class ParetoPoint:
    """
    One config that was measured: the relative error of its outputs, the task's metric, and what it costs.

    steps: how many of the chosen steps it has. allowed: whether it holds to the whole budget.
    """

    steps: int
    error: float
    score: float | None
    costs: Mapping[Cost, float]
    allowed: bool


class MixedPrecision(RecordTable[ChosenPart]):
    """
    The parts of a model and how each is quantised, in the order of the graph.

    config: what to give to `fxquant.prepare`. point: its figures, measured. pareto: all configs that were measured, by cost.
    cost: which one was spent. float_score: the task's metric of the float model. seconds: of all nodes, measured one by one on
    this device, where latency was asked for.
    """

    header = ("part", "option", "share of operations", "error alone")

    def __init__(
        self,
        records: Sequence[ChosenPart],
        config: QuantConfig,
        point: ParetoPoint,
        pareto: Sequence[ParetoPoint],
        cost: Cost,
        float_score: float | None,
        seconds: float | None,
    ) -> None:
        super().__init__(records)
        self.config, self.point, self.pareto, self.cost = config, point, tuple(pareto), cost
        self.float_score, self.seconds = float_score, seconds

    @property
    def met(self) -> bool:
        """Whether the budget is held to; where no config that was found does, the most accurate one is here."""
        return self.point.allowed

    def summary(self) -> list[str]:
        """Return the figures of the config, and of the others that were measured."""
        changed = sum(record.changed for record in self.records)
        head = f"{changed} of {len(self)} parts other than configured, budget {'met' if self.met else 'NOT MET'}"
        return [
            head,
            _described(self.point, self.float_score),
            "measured:",
            *(f"  {_described(p)}" for p in self.pareto),
        ]

    def cells(self, record: ChosenPart) -> tuple[str, ...]:
        """Return the line of one part."""
        option = record.option if record.changed else f"{record.option} (as configured)"
        return (record.name, option, f"{record.macs:.1%}", f"{record.error:.4f}")

    def to_dict(self) -> dict[str, Any]:
        """Return all figures, for JSON."""
        facts = {"met": self.met, "cost": self.cost.value, "float_score": self.float_score, "seconds": self.seconds}
        points = {"point": _point(self.point), "pareto": [_point(each) for each in self.pareto]}
        return {**facts, **points, **super().to_dict()}

    def plot(self) -> Any:
        """Return a figure of matplotlib: error against cost of all that was measured, and what was chosen."""
        axes = new_axes(4.0)
        axes.plot([p.costs[self.cost] for p in self.pareto], [p.error for p in self.pareto], marker=".")
        axes.plot([self.point.costs[self.cost]], [self.point.error], marker="o", linestyle="", label="chosen")
        axes.set_xlabel(self.cost.value.replace("_", " "))
        axes.set_ylabel("error of the outputs, of their norm")
        axes.legend()
        return axes.figure


def mixed(
    model: nn.Module,
    batches: Iterable[Batch],
    budget: PrecisionBudget | str,
    config: QuantConfig | None = None,
    *,
    metric: Metric | str | None = None,
    weight_bits: Sequence[int] | None = None,
    activations: Sequence[Activations | str] | None = None,
    cost: Cost | str | None = None,
    evaluate: Iterable[Batch] | None = None,
    points: int = 4,
    probes: int = PROBES,
    progress: bool = True,
    seed: int = 0,
) -> MixedPrecision:
    """
    Return a config in which parts of `config` have other bits, scales per token or float activations, as `budget` allows.

    model: any module, or its graph from `fxquant.trace`. batches: as for `fxquant.calibrate`. budget: a `PrecisionBudget`, or
    a text such as "error=0.1,int8=0.9". config: what to start from, None is ``recipe("default")``. metric: "top1", "cosine" or
    a function of all outputs and targets, larger where the model is better. weight_bits: what weights may have, None: for a
    limit to mean bits, bit operations or size 2 to 8, else what they have and 8. activations: what they may be, see
    `Activations`; None: all of it, or as configured where `cost` is one of weights alone. cost: what is spent as sparingly as
    may be; None: the one that has a limit, else bit operations. evaluate: the batches that accuracy is measured on, None for
    `batches`. points: how many configs along the way are measured for `pareto` beside what the choice itself takes.

    The error of each operand in each form is estimated, see `fxquant.precision.estimated_error`, with one calibration for each
    form; errors of parts are added up, and the steps that gain most for their cost are taken one after another. The configs on
    the way are then calibrated and measured as wholes: for a limit of accuracy the first one that holds to it is taken, found
    by bisection; without such a limit the last one that is paid for. In a process group every rank calls this with its own
    batches.

    Raises `ConfigError` for an option that is none, and where the cheapest config is beyond the budget; `InputError` where
    there is no batch; `UnsupportedGraphError` for a model that has nothing to choose.
    """
    budget = PrecisionBudget.parse(budget) if isinstance(budget, str) else budget
    task = _task_for(budget, metric)
    spent = _cost_for(budget, cost)
    for name, value, least in (("points", points, 0), ("probes", probes, 1)):
        expect_whole(name, value, least)
    forms = _forms_for(spent, activations)
    for each in (batches, batches if evaluate is None else evaluate):
        expect_iterable(each, "an iterable of batches")
    config = recipe("default") if config is None else config
    batches = list(batches)
    traced = float_graph(model, batches)
    search = _Search(traced, config, batches, batches if evaluate is None else list(evaluate), task, progress, seed)
    search.offer(_bits_for(budget, weight_bits), forms, spent, probes, timed=Cost.LATENCY in (*budget.limits, spent))
    return search.choose(budget, spent, points)


class _Search:
    """One model and config: what each option costs, and the configs that were measured."""

    def __init__(
        self,
        traced: fx.GraphModule,
        config: QuantConfig,
        batches: list[Batch],
        evaluate: list[Batch],
        task: TaskMetric | None,
        progress: bool,
        seed: int,
    ) -> None:
        self.traced, self.config, self.batches, self.task = traced, config, batches, task
        self.progress, self.seed = progress, seed
        self.prepared = self._calibrated(config)
        refuse_unswitchable(self.prepared)
        self.parts, self.whole = parts_of(self.prepared, config)
        self.shown, self.taken = read_batches(self.prepared, batches), read_batches(self.prepared, evaluate)
        self.offers: dict[ModelPart, dict[PartOption, Offer]] = {}
        self.rest = self.whole.rest(self.parts)
        self.points: dict[int, ParetoPoint] = {}
        self.float_score: float | None = None
        self.signal = _whole(self.prepared, self.shown, None).exact.signal or 1.0

    def offer(
        self, weight_bits: Sequence[int], forms: Sequence[Activations], spent: Cost, probes: int, timed: bool
    ) -> None:
        """Find what each option of each part costs, in accuracy and else; timed: in seconds, too."""
        seconds: dict[ModelPart, dict[Activations, float]] = {part: {} for part in self.parts}
        if timed:
            seconds, self.rest[Cost.LATENCY] = part_seconds(
                self.traced, self.config, self.parts, self.batches[0], self.progress
            )
        options = {part: part.options(weight_bits, forms) for part in self.parts}
        energies = self._energies(options, probes)
        for part, mine in options.items():
            self.offers[part] = {
                option: Offer(energies[part, option], part.costs(option, self.whole, seconds[part])) for option in mine
            }

    def _energies(
        self, options: Mapping[ModelPart, Sequence[PartOption]], probes: int
    ) -> dict[tuple[ModelPart, PartOption], float]:
        """
        Return the energy of the error that each option makes.

        That of the weight and that of the activations are found apart, and added: so few calibrations serve all pairs.
        """
        bits = {
            part: list(dict.fromkeys(o.weight_bits for o in mine if o.weight_bits)) for part, mine in options.items()
        }
        forms = {part: list(dict.fromkeys(o.activations for o in mine)) for part, mine in options.items()}
        turns = max(max(len(bits[part]), len(forms[part])) for part in options)
        weights: dict[tuple[ModelPart, int | None], float] = {}
        inputs: dict[tuple[ModelPart, Activations], float] = {}
        with Bar(turns, "estimate options", "form", shown=self.progress, leave=False) as bar:
            for turn in range(turns):
                chosen = {
                    part: PartOption(bits[part][turn % len(bits[part])], forms[part][turn % len(forms[part])])
                    for part in options
                }
                prepared = self._calibrated(config_for(self.config, self.parts, chosen)) if turn else self.prepared
                energies = estimated_energies(prepared, self.shown, probes, self.seed, progress=False)
                named = {o.operand: energies[o] for _, o in observed(prepared)}
                for part, option in chosen.items():
                    own = [(o.role is Role.WEIGHT, named.get(o.name, 0.0)) for r in part.records for o in r.operands]
                    weights.setdefault((part, option.weight_bits), sum(e for weight, e in own if weight))
                    inputs.setdefault((part, option.activations), sum(e for weight, e in own if not weight))
                bar.update()
        return {
            (part, o): 0.0 if o.weight_bits is None else weights[part, o.weight_bits] + inputs[part, o.activations]
            for part, mine in options.items()
            for o in mine
        }

    def choose(self, budget: PrecisionBudget, spent: Cost, points: int) -> MixedPrecision:
        """Return the config on the path of steps that the budget asks for, and what was measured."""
        path = path_of(self.offers, self.rest, budget, spent)
        with Bar(None, "measure configs", "config", shown=self.progress, leave=False) as bar:

            def measured(index: int) -> ParetoPoint:
                if index not in self.points:
                    self.points[index] = self._measure(path[index], index, budget)
                    bar.update()
                return self.points[index]

            last = len(path) - 1
            chosen = _first(measured, last) if budget.asks_for_accuracy else last
            for index in (round(last * turn / max(1, points - 1)) for turn in range(points)):
                measured(index)
            point = measured(chosen)
        timed = Cost.LATENCY in (*budget.limits, spent)
        config = config_for(self.config, self.parts, path[chosen])
        seconds = total_seconds(convert(self._calibrated(config)), self.batches[0]) if timed else None
        records = [
            ChosenPart(
                part.name,
                str(option),
                option != part.base,
                part.macs / max(1, self.whole.macs),
                math.sqrt(self.offers[part][option].energy / self.signal),
            )
            for part, option in path[chosen].items()
        ]
        pareto = sorted(self.points.values(), key=lambda p: p.costs[spent])
        return MixedPrecision(records, config, point, pareto, spent, self.float_score, seconds)

    def _measure(self, chosen: Chosen, steps: int, budget: PrecisionBudget) -> ParetoPoint:
        prepared = self._calibrated(config_for(self.config, self.parts, chosen))
        found = _whole(prepared, self.taken, self.task)
        self.float_score, state = found.known["float"].score, found.known["all"]
        costs = costs_of([self.offers[part][option] for part, option in chosen.items()], self.rest)
        allowed = budget.affords(costs) and budget.allows(state.error, state.score, self.float_score)
        return ParetoPoint(steps, state.error, state.score, costs, allowed)

    def _calibrated(self, config: QuantConfig) -> fx.GraphModule:
        return calibrate(prepare(self.traced, config), self.batches, progress=False, seed=self.seed)


def _whole(prepared: fx.GraphModule, taken: Sequence[Shown], task: TaskMetric | None) -> MeasuredStates:
    """Return the figures of a calibrated model, float and quantised."""
    return MeasuredStates(prepared, taken, task, resume=None, progress=False)


def _first(measured: Callable[[int], ParetoPoint], last: int) -> int:
    """Return the first index that is allowed, by bisection, as errors fall along the path; `last` where that is not allowed."""
    low, high = 0, last
    if not measured(last).allowed:
        return last
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if measured(middle).allowed else (middle + 1, high)
    return high


def _task_for(budget: PrecisionBudget, metric: Metric | str | None) -> TaskMetric | None:
    task = task_metric(metric)
    if budget.drop is not None and task is None:
        raise ConfigError("a budget of drop is one of a metric of the task: give metric='top1', 'cosine' or a function")
    return task


def _cost_for(budget: PrecisionBudget, cost: Cost | str | None) -> Cost:
    if cost is None:
        return next((c for c in budget.limits if c is not Cost.FLOAT_SHARE), Cost.BIT_OPERATIONS)
    try:
        return Cost(cost)
    except ValueError:
        raise ConfigError(f"cost must be one of {', '.join(c.value for c in Cost)}, got {cost!r}") from None


def _bits_for(budget: PrecisionBudget, weight_bits: Sequence[int] | None) -> tuple[int, ...]:
    if weight_bits is None:
        narrow = {Cost.MEAN_BITS, Cost.BIT_OPERATIONS, Cost.SIZE} & budget.limits.keys()
        return tuple(range(2, 9)) if narrow else (8,)
    for bits in weight_bits:
        expect_whole("weight_bits", bits, 2, 8)
    return tuple(weight_bits)


def _forms_for(cost: Cost, activations: Sequence[Activations | str] | None) -> list[Activations]:
    if activations is None:
        return [] if cost in (Cost.MEAN_BITS, Cost.SIZE) else list(ACTIVATIONS)
    try:
        return [Activations(form) for form in activations]
    except ValueError:
        known = ", ".join(repr(each.value) for each in Activations)
        raise ConfigError(f"activations must be among {known}, got {list(activations)!r}") from None


def _described(point: ParetoPoint, float_score: float | None = None) -> str:
    score = "" if point.score is None else f", score {point.score:.4g}"
    of = "" if float_score is None else f" (float {float_score:.4g})"
    costs = point.costs
    figures = (
        f"{costs[Cost.MEAN_BITS]:.2f} bits, {costs[Cost.SIZE] / 1e6:.2f} MB, {costs[Cost.BIT_OPERATIONS]:.3g} bit op."
    )
    latency = f", {costs[Cost.LATENCY] * 1e3:.2f} ms" if costs[Cost.LATENCY] else ""
    return f"error {point.error:.4f}{score}{of}, {figures}{latency}, {1 - costs[Cost.FLOAT_SHARE]:.1%} on int8"


def _point(point: ParetoPoint) -> dict[str, Any]:
    return asdict(point) | {"costs": {cost.value: spent for cost, spent in point.costs.items()}}
