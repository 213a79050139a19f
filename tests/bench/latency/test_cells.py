"""Cells of the latency benchmark: measured as the command does, kept in the order of the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.latency.cells import ROWS, run_cell
from fxquant.benchmark.competitor import Competitor
from fxquant.benchmark.competitors.float_torch import BF16, FP32


def row(model: str, batch: int, ms: float) -> dict[str, Any]:
    return {"model": model, "batch": batch, "results": {"fp32": {"p50_ms": ms}}}


def test_cells_merge_in_the_order_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.harness.results.RESULTS", tmp_path)
    (tmp_path / "latency.json").write_text(json.dumps({"rows": [{"model": "of another format"}]}))
    ROWS.add(row("other", 1, 1.0))
    ROWS.add(row("vit_base_patch16_224", 8, 2.0))
    ROWS.add(row("vit_base_patch16_224", 1, 3.0))
    ROWS.add(row("other", 1, 4.0))
    data = json.loads((tmp_path / "latency.json").read_text())
    cells = [(r["model"], r["batch"], r["results"]["fp32"]["p50_ms"]) for r in data["rows"]]
    assert cells == [("vit_base_patch16_224", 1, 3.0), ("vit_base_patch16_224", 8, 2.0), ("other", 1, 4.0)]
    assert data["baseline"] == "bf16-compile"


@pytest.mark.parametrize("competitors", [[FP32, BF16]])
def test_a_cell_is_measured_as_the_command_does(competitors: list[Competitor]) -> None:
    cell = run_cell("test_vit", 2, 1, competitors, img_size=32)
    assert list(cell["results"]) == ["fp32", "bf16"]
    assert cell["results"]["fp32"]["relative_error"] == 0
    assert cell["threads"] == torch.get_num_threads()
    assert cell["results"]["bf16"]["p50_ms"] > 0
