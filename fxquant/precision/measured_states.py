"""The error of a model with some of its operands quantised, measured for many such choices."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.distributed import on_every_rank, only_first, shard, together, world_size
from fxquant.errors import InputError, reason_of
from fxquant.files.json_file import write_json
from fxquant.graph.fingerprint import fingerprint
from fxquant.observers.base import Observer
from fxquant.precision.operand_groups import observed
from fxquant.precision.run_outputs import Outputs, Shown, floats_of
from fxquant.precision.steps import output_of, steps
from fxquant.precision.switches import Switches
from fxquant.precision.task_metrics import TaskMetric
from fxquant.progress import Bar
from fxquant.reconstruction.evaluator import Evaluator

State = frozenset[Observer]
_AT_ONCE = 8  # states that one walk over the batches measures: what is lost when it is interrupted


@dataclass(frozen=True)
class MeasuredState:
    """error: ``|y - y_float| / |y_float|`` over all outputs. score: the task's metric, None without one."""

    error: float
    score: float | None


class MeasuredStates:
    """
    Measure states of a calibrated model: which of its operands are quantised, while all others are float.

    A state differs from a base, such as all or nothing quantised, from some node on: the graph runs up to it once for all
    states, and from there once for each. resume: a file in which results are kept, and from which they are taken where it is of
    the same model and images. Ranks of a process group, which all have all images, share the states.
    """

    def __init__(
        self,
        prepared: fx.GraphModule,
        shown: Sequence[Shown],
        task: TaskMetric | None,
        resume: Path | None,
        progress: bool,
    ) -> None:
        self.graph, self.shown, self.task, self.progress = prepared.graph, shown, task, progress
        self.switches = Switches(prepared)
        self.run = Evaluator(prepared, self.switches)
        self.first: dict[Observer, fx.Node] = {}
        for node, observer in observed(prepared):
            self.first.setdefault(observer, node)
        self.position = {node: i for i, node in enumerate(self.graph.nodes)}
        self.everything: State = frozenset(self.first)
        self.exact = Outputs(task)
        self._floats = [self._add_float(each) for each in shown]
        self._file = resume
        self._of = "" if resume is None else _fingerprint(prepared, shown, task)
        self.known = {} if resume is None else on_every_rank(lambda: _read(resume, self._of))
        self.measure({"float": (frozenset(), frozenset()), "all": (self.everything, self.everything)}, "full")

    def measure(self, states: Mapping[str, tuple[State, State]], name: str) -> dict[str, MeasuredState]:
        """Return the figures of `states` by their keys, each a base and the state itself; name: what the bar says."""
        missing = [key for key in states if key not in self.known]
        size = _AT_ONCE * world_size()
        with Bar(len(missing), name, "state", shown=self.progress, leave=False) as bar:
            for start in range(0, len(missing), size):
                chunk = missing[start : start + size]
                own = {key: states[key] for key in shard(chunk)}
                for found in together(lambda own=own: self._measured(own)):  # type: ignore[misc]
                    self.known |= found
                if self._file is not None:
                    content = {"of": self._of, "states": {key: asdict(each) for key, each in self.known.items()}}
                    only_first(write_json, self._file, content)
                bar.update(len(chunk))
        return {key: self.known[key] for key in states}

    def _measured(self, states: Mapping[str, tuple[State, State]]) -> dict[str, MeasuredState]:
        found = {key: Outputs(self.task) for key in states}
        for base in {base for base, _ in states.values()}:
            mine = {key: state for key, (other, state) in states.items() if other == base}
            for exact, each in zip(self._floats, self.shown, strict=True):
                for key, output in self._outputs(base, mine, each.inputs):
                    found[key].add(exact, floats_of(output))
        targets = [each.targets for each in self.shown]
        return {key: MeasuredState(each.error, each.score(self.exact, targets)) for key, each in found.items()}

    def _outputs(self, base: State, states: Mapping[str, State], inputs: Sequence[Tensor]) -> Iterator[tuple[str, Any]]:
        output, starts = output_of(self.graph), defaultdict[fx.Node, list[str]](list)
        for key, state in states.items():
            changed = (self.first[observer] for observer in base ^ state)
            starts[min(changed, key=self.position.__getitem__, default=output)].append(key)
        self.switches.on = base
        for node, known in steps(self.run, self.graph, inputs):
            for key in starts.get(node, ()):
                self.switches.on = states[key]
                with torch.no_grad():
                    (found,) = self.run.values((output,), known)
                self.switches.on = base
                yield key, found

    def _add_float(self, each: Shown) -> list[Tensor]:
        places = (n for n in self.graph.nodes if n.op == "placeholder")
        with torch.no_grad():
            (found,) = self.run.values((output_of(self.graph),), dict(zip(places, each.inputs, strict=True)))
        exact = floats_of(found)
        self.exact.add(exact, exact)
        return exact


def _fingerprint(prepared: fx.GraphModule, shown: Sequence[Shown], task: TaskMetric | None) -> str:
    """Return a digest of all that decides about the figures."""
    digest = hashlib.sha256(f"{fingerprint(prepared)} {task and task.name}".encode())
    for each in shown:
        for t in each.inputs:
            digest.update(f"{t.dtype} {tuple(t.shape)}".encode() + t.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _read(file: Path, of: str) -> dict[str, MeasuredState]:
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        states = {key: MeasuredState(**each) for key, each in content["states"].items()}
        found = content["of"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read {str(file)!r}, which is to be resumed: {reason_of(error)}") from error
    if found != of:
        raise InputError(
            f"{str(file)!r} was written for another model, config, metric or other images: remove it, or give another file"
        )
    return states
