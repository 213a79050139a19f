"""`bench.datafree`: cells are measured once, and the table has the mean of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import datafree
from bench.quality_tables import SOURCES
from bench.quality_tables import datafree as table
from bench.standins import build_standin


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(name: str, outliers: str) -> torch.nn.Module:
        torch.manual_seed(0)
        return build_standin(name).eval()

    monkeypatch.setattr(datafree, "build_model", build)


@pytest.mark.usefixtures("untrained")
@pytest.mark.long
def test_cells_are_measured_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.json"
    arguments = ["--models", "vit", "--recipes", "minmax", "--seeds", "0", "--iterations", "1", "--limit", "62"]
    arguments += ["--threads", "1", "--out", str(out)]
    datafree.main(arguments)
    data = json.loads(out.read_text())
    assert set(data["rows"]) == {f"vit {b} minmax {s} seed 0" for b in datafree.BITS for s in SOURCES}
    assert all(0 <= row["top1"] <= 100 and row["sqnr_db"] > 5 for row in data["rows"].values())
    assert table(data).count("`minmax`") == 2
    assert "(1)" in table(data)
    capsys.readouterr()
    datafree.main(arguments)
    assert not capsys.readouterr().out
    with pytest.raises(SystemExit, match="name another --out"):
        datafree.main([*arguments, "--iterations", "2"])
