"""Growth: cells merge by axis and value, and become a plot."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from bench.growth import __main__ as growth
from bench.growth import plot as growth_plot
from bench.harness import results as harness


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (harness, growth, growth_plot):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    return tmp_path


def row(axis: str, value: int, ms: float | None, **facts: Any) -> dict[str, Any]:
    results = {"bf16-compile": {"p50_ms": ms, "memory_bytes": 10**7, "reason": None}}
    base = {"axis": axis, "value": value, "model": "vit", "batch": 4, "depth": 12, "resolution": 224, "threads": 1}
    return base | {"results": results} | facts


def write(*rows: dict[str, Any]) -> None:
    for each in rows:
        harness.write_results("growth", growth.merge(each))


def test_cells_replace_their_own_earlier_measurement(folder: Path) -> None:
    write(row("depth", 3, 1.0), row("batch", 8, 2.0), row("batch", 1, 3.0), row("batch", 8, 4.0))
    write(row("batch", 8, 5.0, threads=2))
    rows = json.loads((folder / "growth.json").read_text())["rows"]
    found = [(r["axis"], r["value"], r["threads"], r["results"]["bf16-compile"]["p50_ms"]) for r in rows]
    assert found == [("batch", 1, 1, 3.0), ("batch", 8, 1, 4.0), ("batch", 8, 2, 5.0), ("depth", 3, 1, 1.0)]


def test_plot(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    write(row("batch", 1, 1.0), row("batch", 2, None), row("resolution", 224, 2.0))
    for name in ("one.svg", "other.svg"):
        growth_plot.draw(folder / name)
    text = (folder / "one.svg").read_text()
    assert text == (folder / "other.svg").read_text()
    assert "bf16-compile" in text


def test_no_figures_no_plot() -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(SystemExit, match=r"growth\.json is missing: run python -m bench\.growth"):
        growth_plot.draw()


def test_memory_is_that_of_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(cell: growth.GrowthCell, names: list[str], rounds: int, threads: int) -> dict[str, Any]:
        return {"results": {name: {"memory_bytes": len(names), "p50_ms": rounds} for name in names}}

    monkeypatch.setattr(growth, "_in_process", measure)
    options = argparse.Namespace(competitors=["a", "b"], rounds=7, threads=1)
    results = growth.measure_in_processes(growth.GrowthCell(), options)["results"]
    assert results == {name: {"memory_bytes": 1, "p50_ms": 7} for name in "ab"}
