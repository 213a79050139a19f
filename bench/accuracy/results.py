"""The file of ``bench.accuracy``: what the float models and the cells gave."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from bench.accuracy.cells import Cell
from bench.accuracy.measure import CALIBRATION_BATCH, TEST_BATCH
from bench.harness.results import MeasuredOnce, Row, describe_run
from bench.standins import Outliers
from fxquant.errors import InputError


class AccuracyResults(MeasuredOnce):
    """The results file: float baselines and rows, written after each cell."""

    def __init__(self, file: Path, calib: int, threads: int) -> None:
        injected = {name: getattr(Outliers(), name) for name in ("norm", "value", "hidden")}
        facts = {
            "calib": calib,
            "calib_batch": CALIBRATION_BATCH,
            "test_batch": TEST_BATCH,
            "injected": injected | {"factor": list(Outliers().factor)},
        }
        super().__init__(file, facts, "baselines")
        self.threads = threads
        self.images: int | None = self.known.get("images")

    def finished(self, cell: Cell) -> bool:
        """Whether `cell` was measured with the config that its recipe gives now, and did not fail."""
        row = self.rows.get(cell.key, {})
        return "top1" in row and bool(row.get("config") == cell.digest)

    def expect_images(self, count: int) -> None:
        """Refuse to mix figures of different test images."""
        if self.rows and self.images != count:
            raise InputError(f"{self.file} was measured on {self.images} test images: name another --out")
        self.images = count

    def add_baseline(self, name: str, row: Row) -> None:
        """Keep the accuracy of a float model, which must not have changed under the rows that are there."""
        if self.floats.setdefault(name, row) != row:
            raise InputError(f"{self.file} was measured on another float model {name!r}: name another --out")

    def add_cell(self, cell: Cell, row: Row) -> None:
        """Write the file with one more row."""
        now = describe_run()
        origin = {"threads": self.threads, "date": now["date"][:10], "commit": now["commit"]}
        self.add(cell.key, asdict(cell) | row | {"config": cell.digest} | origin, images=self.images)
