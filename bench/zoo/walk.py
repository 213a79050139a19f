"""Take one model through all verbs: trace, prepare, calibrate, convert, run and save."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import fxquant
from bench.harness.results import Row
from bench.zoo.entry import Entry
from fxquant.graph.meta import capture_of
from fxquant.numerics.arithmetic import sqnr
from fxquant.ops.make_output import output_leaves

CALIBRATED_BATCH, OTHER_BATCH = 2, 3
MODEL_FILE, OUTPUTS_FILE = "model.safetensors", "outputs.pt"


def walk(entry: Entry, folder: Path) -> Row:
    """
    Take one model through all verbs and return its row; `stopped` says at which verb, and why, it ended.

    What it saves in the end lies in `folder`: the int8 model, and an input with what the model gives on it.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    row: Row = {"source": entry.source, "family": entry.family, "model": entry.model}
    start = time.perf_counter()
    steps = _Steps(entry, folder, row)
    for verb in _VERBS:
        try:
            with torch.no_grad():
                getattr(steps, verb)()
        except Exception as error:
            row["stopped"] = f"{verb}: {type(error).__name__}: {_without_folders(str(error))[:2000]}"
            break
    row["seconds"] = round(time.perf_counter() - start)
    return row


_VERBS = ("build", "trace", "prepare", "calibrate", "convert", "run", "save")


class _Steps:
    """The verbs in order, each of which writes into `row` what it finds."""

    def __init__(self, entry: Entry, folder: Path, row: Row) -> None:
        self.entry, self.folder, self.row = entry, folder, row

    def build(self) -> None:
        self.model = self.entry.build().eval().requires_grad_(False)  # which the counter would follow
        give_values(self.model)
        self.batches = [self.entry.inputs(CALIBRATED_BATCH) for _ in range(2)]
        self.others = self.entry.inputs(OTHER_BATCH)
        self.expected = list(output_leaves(self.model(*self.others)))

    def trace(self) -> None:
        self.gm = fxquant.trace(self.model, self.batches[0])
        capture = capture_of(self.gm)
        if capture is None:
            raise RuntimeError("the graph does not say how it was captured")
        self.row |= {"capture": capture.method, "verified": capture.verified}

    def prepare(self) -> None:
        self.gm = fxquant.prepare(self.gm, fxquant.recipe("omse"))

    def calibrate(self) -> None:
        fxquant.calibrate(self.gm, self.batches, progress=False)

    def convert(self) -> None:
        self.gm = fxquant.convert(self.gm)

    def run(self) -> None:
        self.found = list(output_leaves(self.gm(*self.others)))
        report = fxquant.report(self.gm)
        rows, counted = sum(r.macs or 0 for r in report), count_macs(self.model, self.batches[0])
        self.row |= {
            "sqnr_db": _lowest_sqnr(self.expected, self.found),
            "coverage": round(report.coverage, 4),
            "macs": rows,
            "counted_macs": counted,
            "kept_float": _reasons(report),
        }

    def save(self) -> None:
        fxquant.save(self.gm, str(self.folder / MODEL_FILE))
        torch.save({"inputs": self.others, "outputs": self.found}, self.folder / OUTPUTS_FILE)


def _without_folders(message: str) -> str:
    """Return `message` with the files of installed libraries named from their own folder on."""
    return re.sub(r"[^\s\"']*/site-packages/", "", message)


def is_saved(folder: Path) -> bool:
    """Load what `walk` saved, and say whether it gives equal bits; call it in another process than that which saved it."""
    example = torch.load(folder / OUTPUTS_FILE)
    with torch.no_grad():
        found = output_leaves(fxquant.load(str(folder / MODEL_FILE))(*example["inputs"]))
    pairs = zip(example["outputs"], found, strict=True)
    return all(torch.equal(one, other) if isinstance(one, Tensor) else one == other for one, other in pairs)


def count_macs(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Return the multiply-accumulates of `model` on `inputs`, as torch counts them where nothing of fxquant is involved."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused kernel of nn.MultiheadAttention is not counted
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops()) // 2


def give_values(model: nn.Module) -> None:
    """
    Give untrained parameters that hide their layer a value such as training would.

    Zero weights make an output constant, and layer scales of 1e-5 leave nothing of the blocks in the logits.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if (
                parameter.is_floating_point()
                and parameter.numel()
                and bool((parameter == parameter.flatten()[0]).all())
            ):
                value = float(parameter.flatten()[0])
                if value == 0.0:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
                elif abs(value) < 0.01:
                    parameter.fill_(0.1)


def _lowest_sqnr(expected: list[Any], found: list[Any]) -> float | None:
    """Return the lowest signal-to-quantisation-noise ratio of the floating outputs, in dB; None where it is not finite."""
    decibels = [sqnr(e, f) for e, f in zip(expected, found, strict=True) if _is_float(e)]
    return round(min(decibels), 1) if decibels and math.isfinite(min(decibels)) else None


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _reasons(report: fxquant.Report) -> dict[str, float]:
    """Return the share of multiply-accumulates that stay float, by reason."""
    total = sum(r.macs or 0 for r in report) or 1
    shares: Counter[str] = Counter()
    for record in report:
        if not record.int8:
            shares[record.reason or "float"] += record.macs or 0
    return {reason: round(macs / total, 4) for reason, macs in shares.most_common()}
