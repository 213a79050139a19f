"""The changes that help most, each calibrated, converted and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import fx

from fxquant.api import calibrate, convert, prepare
from fxquant.diagnosis.examined import Examined, FloatSide
from fxquant.diagnosis.normalisation import BetterNormalisation
from fxquant.diagnosis.offered_changes import OfferedChange, offered_changes
from fxquant.diagnosis.section import DoctorSection
from fxquant.diagnosis.time_spent import FASTER, time_ratio
from fxquant.errors import FxquantError
from fxquant.graph.inputs import Batch
from fxquant.inspection.report import Report, report
from fxquant.precision.record_table import shown
from fxquant.precision.run_outputs import floats_of
from fxquant.precision.sensitivity import SensitivityTable
from fxquant.progress import track

_BEST = 3
_GAIN = 0.02  # of the error, from which on a change is one that helps
_TITLE = "Which changes help most?"


@dataclass(frozen=True)
class MeasuredChange:
    """
    What a change gives on the evaluation images.

    error: of the outputs, as a fraction of their norm. top1: in percent, None without labels. time: how many times that of the
    model as it is a call takes, None where times were not asked for. coverage: share of the multiply-accumulates on int8.
    failed: why it could not be measured, with zeros for figures.
    """

    name: str
    error: float
    top1: float | None = None
    time: float | None = None
    coverage: float = 0.0
    failed: str | None = None

    def cells(self) -> tuple[str, ...]:
        """Return its line in the table."""
        if self.failed is not None:
            return (self.name, "failed", "", "", "")
        return (
            self.name,
            f"{self.error:.4f}",
            shown(self.top1, ".1f"),
            shown(self.time, ".2f"),
            f"{self.coverage:.1%}",
        )

    def gain(self, before: MeasuredChange) -> str:
        """Return what it changes of `before`."""
        parts = [f"error {before.error:.4f} to {self.error:.4f}"]
        if self.top1 is not None and before.top1 is not None:
            parts.append(f"top-1 {before.top1:.1f} to {self.top1:.1f} %")
        if self.time is not None:
            parts.append(f"time {self.time:.2f}x")
        parts.append(f"on int8 {before.coverage:.1%} to {self.coverage:.1%}")
        return ", ".join(parts)


def check_changes(
    examined: Examined,
    facts: Report,
    better: BetterNormalisation | None,
    shifted: bool,
    more: Sequence[Batch],
    count: int,
    timed: bool,
    progress: bool,
) -> DoctorSection:
    """
    Return the three changes that take most of the error away.

    better: a normalisation that was found to be. shifted: calibration images look unlike those of the evaluation: half of these
    then calibrate, and all changes are measured on the other half. count: how many changes are tried at most.
    """
    source = examined.source
    if source is None:
        return DoctorSection(
            "changes", _TITLE, left_out="it needs the float model, which a quantised graph does not hold"
        )
    if examined.made_up or not examined.evaluation:
        return DoctorSection("changes", _TITLE, left_out="it needs evaluation images: there are none")
    if not count:
        return DoctorSection("changes", _TITLE, left_out="no change was to be tried")
    alike, held = _halves(examined) if shifted else ([], range(len(examined.evaluation)))
    offers, reason, costs = offered_changes(source, facts, more, alike, progress)
    before = _figures(examined, "as it is", examined.quantized, held, timed)
    tried = [
        _measured(examined, source, offer, held, timed)
        for offer in track(offers[:count], "measure changes", "change", shown=progress, leave=False)
    ]
    known = [each for each in tried if each.failed is None]
    best = sorted((c for c in known if c.error < (1 - _GAIN) * before.error), key=lambda c: c.error)
    first = [] if better is None else [f"prepare images with mean {better.better.mean} and std {better.better.std}: float "
                                       f"top-1 {better.given_top1:.1f} to {better.better_top1:.1f} %"]  # fmt: skip
    lines = [*first, *(f"{each.name}: {each.gain(before)}" for each in best)][:_BEST]
    lines = [f"{place}) {line}" for place, line in enumerate(lines, 1)] or [
        f"none of {len(tried)} changes takes more than {_GAIN:.0%} of the error away"
    ]
    fast = min((c for c in known if c.time is not None), key=lambda c: c.time or 0.0, default=None)
    if fast is not None and (fast.time or 1.0) < 1 / FASTER:
        lines.append(f"fastest, {fast.name}: {fast.gain(before)}")
    lines += [f"not measured, {each.name}: {each.failed}" for each in tried if each.failed is not None]
    lines += [] if reason is None else [reason]
    lines += [] if costs is None else [_costliest(costs)]
    if alike:
        lines.append(f"measured on {len(held)} of {len(examined.evaluation)} evaluation batches: the others calibrate")
    header = ("change", "error", "top-1 %", "time", "on int8")
    rows = tuple(each.cells() for each in [_float(examined, held), before, *sorted(known, key=lambda c: c.error)])
    figures = {
        "before": asdict(before),
        "tried": [asdict(each) for each in tried],
        "sensitivity": None if costs is None else costs.to_dict(),
    }
    return DoctorSection("changes", _TITLE, (), tuple(lines), header, rows, None, figures)


def _costliest(costs: SensitivityTable) -> str:
    """Return the kinds of operands that cost most where each is quantised alone."""
    kinds = list(costs.kinds().items())[:_BEST]
    return f"quantised alone, most error is made by {', '.join(f'{kind} {error:.4f}' for kind, error in kinds)}"


def _halves(examined: Examined) -> tuple[list[Batch], range]:
    """Return every second evaluation batch, to calibrate with, and the positions of the others; none of a single one."""
    return [each.inputs for each in examined.evaluation[1::2]], range(0, len(examined.evaluation), 2)


def _measured(
    examined: Examined, source: FloatSide, offer: OfferedChange, held: Sequence[int], timed: bool
) -> MeasuredChange:
    try:
        prepared = calibrate(prepare(source.traced, offer.config), offer.batches, progress=False, seed=source.seed)
        return _figures(examined, offer.name, convert(prepared), held, timed)
    except FxquantError as error:
        return MeasuredChange(offer.name, 0.0, failed=str(error))


def _float(examined: Examined, held: Sequence[int]) -> MeasuredChange:
    """Return the line of the float model, for the evaluation batches at the positions `held`."""
    exact = examined.outputs()
    for position in held:
        exact.add(examined.floats[position], examined.floats[position])
    return MeasuredChange("float model", 0.0, exact.score(exact, [examined.evaluation[i].targets for i in held]))


def _figures(examined: Examined, name: str, gm: fx.GraphModule, held: Sequence[int], timed: bool) -> MeasuredChange:
    """Return what a quantised graph gives for the evaluation batches at the positions `held`."""
    exact, found = examined.outputs(), examined.outputs()
    with torch.no_grad():
        for position in held:
            floats = examined.floats[position]
            exact.add(floats, floats)
            found.add(floats, floats_of(gm(*examined.evaluation[position].inputs)))
    top1 = found.score(exact, [examined.evaluation[position].targets for position in held])
    ratio = None
    if timed:
        ratio = time_ratio(gm, examined.quantized, examined.timed) if gm is not examined.quantized else 1.0
    return MeasuredChange(name, found.error, top1, ratio, report(gm).coverage)
