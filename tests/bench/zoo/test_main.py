"""`python -m bench.zoo` walks a family once, unless it is asked for, and writes the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.zoo import __main__ as zoo
from bench.zoo.entries import FAMILIES
from bench.zoo.table import render


def test_families_are_walked_once_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(name: str) -> dict[str, Any]:
        return {"model": name, "capture": None, "exact": None, "stopped": "trace: none of these"}

    monkeypatch.setattr("bench.harness.results.RESULTS", tmp_path / "results")
    monkeypatch.setattr(zoo, "DOCS", tmp_path / "docs" / "zoo.md")
    monkeypatch.setattr(zoo, "walk_in_process", refuse)
    monkeypatch.setattr(zoo, "FAMILIES", {name: FAMILIES[name] for name in ("ViT", "Swin")})
    for arguments, walked in ((["--only", "Swin"], 1), ([], 1), ([], 0), (["--only", "ViT"], 1), (["--fresh"], 2)):
        monkeypatch.setattr("sys.argv", ["zoo", *arguments])
        zoo.main()
        assert capsys.readouterr().out.count("none of these") == walked
    rows = json.loads((tmp_path / "results" / "zoo.json").read_text())["rows"]
    assert list(rows) == ["ViT", "Swin"]
    assert "0 of 2 trace, prepare" in (tmp_path / "docs" / "zoo.md").read_text()


def test_a_misspelt_family_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["zoo", "--only", "Swim"])
    with pytest.raises(SystemExit):
        zoo.main()
    assert "invalid choice: 'Swim'" in capsys.readouterr().err


def test_what_has_no_sqnr_says_so() -> None:
    row = {
        "model": "m",
        "capture": "symbolic",
        "exact": True,
        "coverage": 0.5,
        "sqnr_db": None,
        "kept_float": {"a|b": 0.5},
    }
    assert (
        render({"M": row}, "1").splitlines()[-1]
        == "| M | `m` | symbolic | yes | yes | yes | yes | 50.0% | - | 50% a/b |"
    )
