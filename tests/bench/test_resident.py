"""Resident memory: each stage has its peak, and the table has it as a multiple of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import resident
from bench.time_tables import resident as table
from fxquant.benchmark import memory


@pytest.mark.long
@pytest.mark.skipif(not memory._CLEAR.exists(), reason="only Linux tells the peak of a call")
@pytest.mark.parametrize("form", resident.FORMS)
def test_each_stage_has_its_peak(form: str, tmp_path: Path) -> None:
    file, small = tmp_path / "model.safetensors", tmp_path / "small.safetensors"
    resident.write_model(file, "vit_small_patch16_224", depth=2)
    resident.write_model(small, resident.SMALL[0], **resident.SMALL[1])
    row = resident.measure_form(form, file, small)
    assert row["file_bytes"] == file.stat().st_size
    assert list(row["peak_bytes"]) == ["compile", "first call", "later calls"]
    assert row["peak_bytes"]["first call"] >= row["peak_bytes"]["later calls"] > 0


def test_the_table_has_multiples_of_the_file() -> None:
    row = {"model": "vit", "form": "compile(file)", "file_bytes": 10**8, "before_bytes": 8 * 10**8}
    environment = {"processor": "CPU", "threads": 2, "torch": "2"}
    peaks = {"compile": 11 * 10**7, "first call": 15 * 10**7, "later calls": None}
    data = {"rows": [row | {"peak_bytes": peaks}], "recipe": "minmax", "environment": environment, "date": "2026-11-30"}
    assert "| `vit` | `compile(file)` | 100 | 110 (1.10x) | 150 (1.50x) |  | 800 |" in table(data)
