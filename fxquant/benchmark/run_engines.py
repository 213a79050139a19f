"""
Build competitors, check that each runs what its name says and agrees with the float model, and time them side by side.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from fxquant.benchmark.agreement import Agreement, compare_outputs
from fxquant.benchmark.competitor import Competitor, Engine, Evidence
from fxquant.benchmark.competitors import BASELINE, COMPETITORS
from fxquant.benchmark.energy import joules_per_call
from fxquant.benchmark.memory import held_bytes, peak_bytes
from fxquant.benchmark.subject import Subject
from fxquant.benchmark.torch_engine import torch_engine
from fxquant.errors import ConfigError
from fxquant.measurement.timing import Timing, time_interleaved
from fxquant.progress import track

WARM_UP = 3


class Status(str, Enum):
    """The result of a competitor."""

    MEASURED = "measured"
    DISAGREES = "disagrees"  # measured, but its outputs are too far from the float model's to be compared
    OTHER_PRECISION = "other precision"  # not measured: it silently ran something else than its name says
    NOT_INSTALLED = "not installed"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """
    One competitor at one batch size.

    reason: why it has no time, or why its time should not be trusted.
    speedup: how many times faster it is than `BASELINE`, as the median over rounds timed side by side.
    build_seconds: until the first call was done. first_call_seconds: of the first call alone, in which torch compiles.
    memory: the bytes by which the process has grown at the peak of a call, since before the engine was built.
    joules: of a call, where the machine tells: see `fxquant.benchmark.energy`.
    """

    name: str
    status: Status
    reason: str | None = None
    evidence: Evidence | None = None
    agreement: Agreement | None = None
    build_seconds: float | None = None
    first_call_seconds: float | None = None
    memory: int | None = None
    timing: Timing | None = None
    speedup: float | None = None
    joules: float | None = None

    def as_json(self, batch: int) -> dict[str, Any]:
        """Return all fields with units in the keys; what was not measured is None."""
        timing, error = self.timing, self.agreement.relative_error if self.agreement else None
        return {
            "name": self.name,
            "status": self.status.value,
            "reason": self.reason,
            "products": dict(self.evidence.products) if self.evidence else None,
            "kernels": dict(self.evidence.kernels) if self.evidence else None,
            "relative_error": error if error is None or math.isfinite(error) else None,
            "build_seconds": self.build_seconds,
            "first_call_seconds": self.first_call_seconds,
            "memory_bytes": self.memory,
            "p50_ms": timing and round(timing.median * 1e3, 4),
            "p95_ms": timing and round(timing.percentile(95) * 1e3, 4),
            "min_ms": timing and round(min(timing.seconds) * 1e3, 4),
            "images_per_second": timing and round(batch / timing.median, 2),
            "joules_per_image": None if self.joules is None else round(self.joules / batch, 5),
            f"times_faster_than_{BASELINE.name}": self.speedup and round(self.speedup, 3),
            "seconds": timing and list(timing.seconds),
        }


def select_competitors(names: Sequence[str]) -> tuple[Competitor, ...]:
    """Return the competitors with these names, or all for no names, in their usual order and always with the baseline."""
    known = {competitor.name: competitor for competitor in COMPETITORS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"unknown competitors {', '.join(unknown)}: expected some of {', '.join(known)}")
    return tuple(c for c in COMPETITORS if not names or c.name in names or c is BASELINE)


def run_batch(
    subject: Subject,
    images: Tensor,
    competitors: Sequence[Competitor],
    rounds: int,
    description: str = "time",
    progress: bool = True,
    max_seconds: float = math.inf,
) -> list[Outcome]:
    """
    Measure `competitors` on one batch of float32 `images` ``(B, C, H, W)``; return one outcome for each, in order.

    A round times one call of each competitor, after a call that does not count. An engine that fails, is not installed or
    is not what its name says affects its own outcome alone. progress: whether to show how far it has come. max_seconds: after
    which no new round begins, once there are three.
    """
    torch.compiler.reset()
    _load_compiler(subject.device)
    reference = torch_engine(subject.reference(), images.to(subject.device)).output()
    outcomes: dict[str, Outcome] = {}
    engines: dict[str, Engine] = {}
    for competitor in track(competitors, "build", "engine", shown=progress, leave=False):
        outcomes[competitor.name], engine = _build(competitor, subject, images, reference)
        if engine is not None:
            engines[competitor.name] = engine
    calls = {name: engine.run for name, engine in engines.items()}
    limits: dict[str, Any] = {"rounds": rounds, "seconds_per_round": 0, "max_seconds": max_seconds}
    timings = time_interleaved(calls, **limits, description=description, progress=progress) if calls else {}
    baseline = timings.get(BASELINE.name)
    for name, timing in timings.items():
        ratio = timing.speedup_over(baseline) if baseline else None
        joules = joules_per_call(calls[name], subject.device)
        outcomes[name] = replace(outcomes[name], timing=timing, speedup=ratio, joules=joules)
    return list(outcomes.values())


def _load_compiler(device: torch.device) -> None:
    """Compile a tiny function, so that the first engine that compiles does not account for the compiler's own memory."""
    with contextlib.suppress(Exception), _quietly():  # an engine that compiles will tell why it cannot
        torch.compile(torch.neg)(torch.zeros(1, device=device))


def _build(
    competitor: Competitor, subject: Subject, images: Tensor, reference: Tensor
) -> tuple[Outcome, Engine | None]:
    """Return what is known before timing, and the engine if it is to be timed."""
    missing = competitor.missing()
    if missing:
        reason = f"not installed ({', '.join(missing)}): pip install {' '.join(missing)}"
        return Outcome(competitor.name, Status.NOT_INSTALLED, reason), None
    if subject.device.type not in competitor.devices:
        reason = f"runs on {', '.join(competitor.devices)}, not on {subject.device.type}"
        return Outcome(competitor.name, Status.UNSUPPORTED, reason), None
    try:
        with _quietly():
            return _check(competitor, subject, images, reference)
    except Exception as error:  # each engine has errors of its own, and none may cost the others their figures
        return Outcome(competitor.name, Status.FAILED, _reason(error)), None


def _check(
    competitor: Competitor, subject: Subject, images: Tensor, reference: Tensor
) -> tuple[Outcome, Engine | None]:
    for name in competitor.needs:
        importlib.import_module(name)
    start = time.perf_counter()
    if competitor.prepare is not None:
        competitor.prepare(subject)
    before = held_bytes(subject.device)
    engine = competitor.build(subject, images)
    built = time.perf_counter()
    engine.run()  # compiles
    end = time.perf_counter()
    evidence, agreement = engine.evidence(), compare_outputs(engine.output(), reference)
    seconds = round(end - start, 3), round(end - built, 3)
    outcome = Outcome(competitor.name, Status.MEASURED, None, evidence, agreement, *seconds)
    objection = evidence.objection(competitor.precision)
    if objection:
        return replace(outcome, status=Status.OTHER_PRECISION, reason=objection), None
    for _ in range(WARM_UP):
        engine.run()
    peak = peak_bytes(engine.run, subject.device)
    grown = max(peak - before, 0) if peak is not None and before is not None else None
    disagreement = agreement.objection()
    status = Status.DISAGREES if disagreement else Status.MEASURED
    return replace(outcome, status=status, reason=disagreement, memory=grown), engine


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the output of engines, while they are built and checked, out of the table."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]
