"""Growth's cells vary along one axis, replace themselves, and have the memory of a process of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.growth import cells
from bench.growth.cells import AXES, ROWS, GrowthCell, measure_in_processes


def row(axis: str, value: int, ms: float, threads: int = 1) -> dict[str, Any]:
    return {"axis": axis, "value": value, "model": "vit", "threads": threads, "ms": ms}


def test_cells_replace_their_own_earlier_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.harness.results.RESULTS", tmp_path)
    ROWS.add(row("depth", 3, 1.0), row("batch", 8, 2.0), row("batch", 1, 3.0))
    ROWS.add(row("batch", 8, 4.0))
    ROWS.add(row("batch", 8, 5.0, threads=2))
    found = [(r["axis"], r["value"], r["threads"], r["ms"]) for r in ROWS.read()]
    assert found == [("batch", 1, 1, 3.0), ("batch", 8, 1, 4.0), ("batch", 8, 2, 5.0), ("depth", 3, 1, 1.0)]


@pytest.mark.parametrize("axis", AXES)
def test_a_cell_varies_along_one_axis(axis: str) -> None:
    base, varied = GrowthCell(), GrowthCell().at(axis, 7)
    assert {name for name in vars(base) if getattr(base, name) != getattr(varied, name)} == {axis}


def test_memory_is_that_of_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(cell: GrowthCell, names: list[str], rounds: int, threads: int) -> dict[str, Any]:
        return {"results": {name: {"memory_bytes": len(names), "p50_ms": rounds} for name in names}}

    monkeypatch.setattr(cells, "_in_process", measure)
    results = measure_in_processes(GrowthCell(), ["a", "b"], 7, 1)["results"]
    assert results == {name: {"memory_bytes": 1, "p50_ms": 7} for name in "ab"}
