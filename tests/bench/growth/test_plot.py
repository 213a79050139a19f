"""The plot of growth: the same figures give the same file, and no figures none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.growth.cells import ROWS
from bench.growth.plot import draw

pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("bench.harness.results.RESULTS", tmp_path)
    return tmp_path


def row(axis: str, value: int, ms: float | None) -> dict[str, Any]:
    results = {"bf16-compile": {"p50_ms": ms, "memory_bytes": 10**7, "reason": None}}
    base = {"axis": axis, "value": value, "model": "vit", "batch": 4, "depth": 12, "resolution": 224, "threads": 1}
    return base | {"results": results}


def test_plot(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    ROWS.add(row("batch", 1, 1.0), row("batch", 2, None), row("resolution", 224, 2.0))
    for name in ("one.svg", "other.svg"):
        draw(folder / name)
    text = (folder / "one.svg").read_text()
    assert text == (folder / "other.svg").read_text()
    assert "bf16-compile" in text


def test_no_figures_no_plot() -> None:
    with pytest.raises(SystemExit, match=r"growth\.json is missing: run python -m bench\.growth"):
        draw()
