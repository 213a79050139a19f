"""Measure one cell of ``bench.accuracy`` on a stand-in."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxquant
from bench.accuracy.cells import Cell
from bench.harness.processes import peak_mib
from bench.harness.results import Row
from bench.standins import Glyphs, inject_outliers, load_part, load_standin
from fxquant.measurement.evaluation import Evaluation, evaluate, measure_agreement
from fxquant.numerics.arithmetic import sqnr

CALIBRATION_BATCH = 8  # moving averages need more than one batch
TEST_BATCH = 64


def build_model(name: str, outliers: str) -> nn.Module:
    """Load the stand-in `name` of seed 0; its outliers are the same every time too."""
    model = load_standin(name)
    return inject_outliers(model) if outliers == "with" else model


def write_data(folder: Path, limit: int | None) -> int:
    """Draw all calibration images and `limit` test images into `folder` and return how many the latter are."""
    calibration, test = load_part("calibration"), load_part("test", limit)
    data = {"calibration": calibration.images, "images": test.images, "labels": test.labels}
    torch.save(data, folder / "data.pt")
    return len(test)


def measure_float(folder: Path, model_name: str, outliers: str) -> Row:
    """Evaluate the float model, keep its logits in `folder` for the cells, and return its top-1 accuracy and size."""
    model, data = build_model(model_name, outliers), _load(folder / "data.pt")
    found, logits = _evaluate(model, data, f"float {model_name}")
    torch.save({"logits": logits}, folder / f"{model_name} {outliers}.pt")
    return {"top1": round(found.top1, 4), "parameters": sum(p.numel() for p in model.parameters())}


def measure(cell: Cell, folder: Path, calib: int, threads: int) -> Row:
    """
    Calibrate one cell on `calib` images, evaluate it, and return its figures; accuracies are in percent.

    seconds, cpu_seconds: of calibration alone, on the clock and on the processor. memory_mib: by how much calibration raised
    the peak resident memory of this process, which is fresh and held the prepared model and the images before it.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(cell.seed)
    data = _load(folder / "data.pt")
    expected = _load(folder / f"{cell.model} {cell.outliers}.pt")["logits"]
    prepared = fxquant.prepare(fxquant.trace(build_model(cell.model, cell.outliers)), cell.config)
    batches = draw_calibration(data["calibration"], calib, cell.seed).split(CALIBRATION_BATCH)
    before, start, cpu = peak_mib(), time.perf_counter(), time.process_time()
    fxquant.calibrate(prepared, batches, progress=False, seed=cell.seed)
    row: Row = {"seconds": round(time.perf_counter() - start, 3), "cpu_seconds": round(time.process_time() - cpu, 3)}
    row["memory_mib"] = round(peak_mib() - before, 1)
    fake, logits = _evaluate(fxquant.convert(prepared, "fake"), data, f"fake {cell.key}")
    row |= {"top1": round(fake.top1, 4), "sqnr_db": _decibels(expected, logits)}
    row["agreement"] = round(100 * (logits.argmax(dim=1) == expected.argmax(dim=1)).double().mean().item(), 4)
    if cell.seed == 0:
        int8, logits = _evaluate(fxquant.convert(prepared, "int8"), data, f"int8 {cell.key}")
        row |= {"int8_top1": round(int8.top1, 4), "int8_agreement": round(measure_agreement(fake, int8), 4)}
    return row


def draw_calibration(images: Tensor, count: int, seed: int) -> Tensor:
    """Draw `count` of the calibration images ``(B, 1, 32, 32)``, others for another seed."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[:count]]


def _evaluate(model: nn.Module, data: Mapping[str, Tensor], description: str) -> tuple[Evaluation, Tensor]:
    """Return the evaluation on the test images and the logits ``(B, classes)``."""
    logits: list[Tensor] = []

    def run(images: Tensor) -> Tensor:
        logits.append(model(images))
        return logits[-1]

    found = evaluate(run, Glyphs(data["images"], data["labels"]).batches(TEST_BATCH), description=description)
    return found, torch.cat(logits)


def _load(file: Path) -> dict[str, Tensor]:
    """Map the tensors of a file: pages that are not read take no memory."""
    tensors: dict[str, Tensor] = torch.load(file, mmap=True, weights_only=True)
    return tensors


def _decibels(expected: Tensor, found: Tensor) -> float | None:
    decibels = sqnr(expected, found)
    return round(decibels, 2) if math.isfinite(decibels) else None


def measure_in_process(*arguments: Any) -> Row:
    """Call `measure` in a process that has imported everything and done nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fxquant", "timm"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, *arguments).result()
