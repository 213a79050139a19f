"""Take one model through all verbs: trace, prepare, calibrate, convert and run."""

from __future__ import annotations

import math
import subprocess
import time
from collections import Counter
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import fxquant
from bench.harness.processes import last_row, run_module
from bench.harness.results import Row
from fxquant.numerics.arithmetic import sqnr

TIME_LIMIT = 1200  # seconds for one model
CHECKED_BATCHES = (1, 3)  # an example for torch.export has two images


def walk(name: str) -> Row:
    """Take one model through all verbs and return its row; `stopped` says at which verb, and why, it ended."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = timm.create_model(name).eval()
    _give_values(model)
    size = timm.data.resolve_model_data_config(model)["input_size"]
    images = torch.randn(4, *size)
    row: Row = {"model": name, "capture": None, "exact": None, "coverage": None, "sqnr_db": None}
    start, verb = time.perf_counter(), "trace"
    try:
        gm, row["capture"] = _trace(model, images[:2])
        row["difference"] = max(_difference(model, gm, images[:n]) for n in CHECKED_BATCHES)
        row["exact"] = row["difference"] == 0.0
        verb = "prepare"
        prepared = fxquant.prepare(gm, fxquant.recipe("default"))
        verb = "calibrate"
        fxquant.calibrate(prepared, [images[:2], images[2:]], progress=False)
        verb = "convert"
        converted = fxquant.convert(prepared)
        verb = "run"
        expected, found = (_outputs(m, images[:3])[0] for m in (model, converted))
        decibels = sqnr(expected, found)
        row["sqnr_db"] = round(decibels, 1) if math.isfinite(decibels) else None
        report = fxquant.report(converted)
        row["coverage"] = round(report.coverage, 4)
        row["kept_float"] = _reasons(report)
    except Exception as error:
        row["stopped"] = f"{verb}: {type(error).__name__}: {str(error)[:2000]}"
    row["seconds"] = round(time.perf_counter() - start)
    return row


def _trace(model: nn.Module, images: Tensor) -> tuple[Any, str]:
    try:
        return fxquant.trace(model), "symbolic"
    except fxquant.UnsupportedGraphError:
        return fxquant.trace(model, images), "export"


def _give_values(model: nn.Module) -> None:
    """
    Give untrained parameters that hide their layer a value such as training would.

    Zero weights make an output constant, and layer scales of 1e-5 leave nothing of the blocks in the logits.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and bool((parameter == parameter.flatten()[0]).all()):
                value = float(parameter.flatten()[0])
                if value == 0.0:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
                elif abs(value) < 0.01:
                    parameter.fill_(0.1)


def _outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(model(images)) if isinstance(leaf, Tensor)]


def _difference(model: nn.Module, gm: nn.Module, images: Tensor) -> float:
    """Return the largest difference between both modules' outputs, relative to the largest output; 0.0 if bit-exact."""
    pairs = list(zip(_outputs(model, images), _outputs(gm, images), strict=True))
    if all(torch.equal(expected, found) for expected, found in pairs):
        return 0.0
    return max(float((e.double() - f.double()).abs().max() / e.double().abs().max()) for e, f in pairs)


def _reasons(report: fxquant.Report) -> dict[str, float]:
    """Return the share of multiply-accumulates that stay float, by reason."""
    total = sum(r.macs or 0 for r in report) or 1
    shares: Counter[str] = Counter()
    for record in report:
        if not record.int8:
            shares[record.reason or "float"] += record.macs or 0
    return {reason: round(macs / total, 4) for reason, macs in shares.most_common()}


def walk_in_process(name: str) -> Row:
    """Return the row of `walk` in a process of its own, also where that is killed or never ends."""
    failed: Row = {"model": name, "capture": None, "exact": None}
    try:
        done = run_module("bench.zoo", "--one", name, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return failed | {"stopped": f"trace: time limit of {TIME_LIMIT} s"}
    row = last_row(done.stdout)
    if row is None:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return failed | {"stopped": f"trace: exit status {done.returncode}: {last}"}
    return row
