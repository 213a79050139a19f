"""Measure the cells of ``bench.accuracy`` that are left, each in a process of its own."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.accuracy.cells import Cell
from bench.accuracy.measure import measure_float, measure_in_process, write_data
from bench.accuracy.results import AccuracyResults
from bench.harness.results import Row
from bench.standins import load_part


def run(cells: Sequence[Cell], results: AccuracyResults, options: argparse.Namespace) -> Iterator[tuple[Cell, Row]]:
    """Measure the cells one by one, write each down and yield it; one that fails says why in `stopped`."""
    with tempfile.TemporaryDirectory() as name:
        folder, floats = Path(name), set[str]()
        if cells:
            load_part("calibration", options.calib)  # refuses now what every cell would refuse
            results.expect_images(write_data(folder, options.limit))
        for cell in cells:
            baseline = f"{cell.model} {cell.outliers}"
            if baseline not in floats:
                results.add_baseline(baseline, measure_float(folder, cell.model, cell.outliers))
                floats.add(baseline)
            try:
                row = measure_in_process(cell, folder, options.calib, options.threads)
            except Exception as error:
                row = {"stopped": f"{type(error).__name__}: {str(error)[:500]}"}
            results.add_cell(cell, row)
            yield cell, row
