"""Calibration is timed by cell, each with figures of its own, and cells are rows of the file once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench import calibration
from bench.calibration import RECIPES, SETTINGS, TimedModel, all_cells, run_cell
from bench.harness.results import read_results

SMALL = {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2}


def test_large_models_have_no_cell_in_the_published_form() -> None:
    cells = all_cells()
    assert len(cells) == len(set(cells)) == 5 * len(RECIPES)
    assert all(name.split("/")[0] in SETTINGS for name in cells)
    assert "vit_base_224px/ptq4vit/default" in cells
    assert "vit_base_224px/ptq4vit/published" not in cells


@pytest.mark.parametrize("form", ["default", "published"])
def test_a_cell_is_timed(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setitem(SETTINGS, "small", TimedModel("vit_tiny_patch16_224", SMALL, 4, 32))
    row = run_cell(f"small/base_ptq/{form}", 1)
    assert (row["setting"], row["recipe"], row["form"], row["images"]) == ("small", "base_ptq", form, 4)
    assert row["seconds"] > 0
    assert row["peak_mib"] >= row["peak_before_mib"] > 0


def test_rows_of_other_threads_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(module: str, *arguments: str) -> dict[str, Any]:
        name, recipe, form = arguments[1].split("/")
        assert (module, arguments[0], arguments[2]) == ("bench.calibration", "--cell", "--threads")
        return {"setting": name, "recipe": recipe, "form": form, "threads": int(arguments[3])} | dict.fromkeys(
            ("seconds", "peak_mib"), 1.0
        )

    monkeypatch.setattr("bench.harness.results.RESULTS", tmp_path)
    monkeypatch.setattr(calibration, "row_of", measured)
    for threads in ("1", "2", "1"):
        monkeypatch.setattr("sys.argv", ["calibration", "--cells", "a/b/default", "--threads", threads])
        calibration.main()
    data = read_results("calibration")
    assert data["bits"] == "W8A8"
    assert [row["threads"] for row in data["rows"]] == [2, 1]
