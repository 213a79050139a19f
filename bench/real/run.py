"""Measure cells of ``bench.real``, the cells of one task after another."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import groupby

from torch import Tensor

import fxquant
from bench.harness.bits import parse_bits
from bench.harness.results import Row
from bench.real.cells import RealCell
from bench.real.outputs import run
from bench.real.tasks import TASKS, Trial
from fxquant.errors import ConfigError


def measure_cells(cells: Sequence[RealCell], split: int, count: int | None) -> Iterator[tuple[RealCell, Row]]:
    """
    Yield the figures of each cell on `count` images, or on as many as its task has.

    Bits that a recipe does not offer are `refused`, with the reason; what fails for another one is `stopped`.
    """
    for task, same_task in groupby(cells, key=lambda cell: cell.task):
        trial = TASKS[task](split, count)
        expected = run(trial.model, trial.images, f"{task} float")
        for cell in same_task:
            try:
                row = _measure(cell, trial, expected)
            except ConfigError as error:
                row = {"refused": str(error)}
            except Exception as error:
                row = {"stopped": f"{type(error).__name__}: {str(error)[:500]}"}
            yield cell, row


def _measure(cell: RealCell, trial: Trial, expected: Tensor) -> Row:
    """Return the figures of one cell. seconds, cpu_seconds: of `fxquant.quantize`, on the clock and on the processor."""
    w_bits, a_bits = parse_bits(cell.bits)
    start, cpu = time.perf_counter(), time.process_time()
    quantized = fxquant.quantize(
        trial.model, trial.calibration, cell.recipe, w_bits, a_bits, target="fake", progress=False
    )
    spent = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    found = run(quantized, trial.images, cell.key)
    figures = {name: round(value, 5) for name, value in trial.score(expected, found).items()}
    return {name: round(value, 1) for name, value in spent.items()} | figures
