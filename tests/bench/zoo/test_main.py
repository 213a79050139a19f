"""`python -m bench.zoo` walks a model once, unless it is asked for, and writes the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.harness.results import Row
from bench.zoo import __main__ as zoo
from bench.zoo.entries import ENTRIES
from bench.zoo.entry import Entry
from bench.zoo.table import render

LIBRARIES = {"timm": "1", "torchvision": "2", "transformers": "3"}


def test_models_are_walked_once_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(entry: Entry) -> Row:
        return _row(entry) | {"stopped": "trace: none of these"}

    monkeypatch.setattr("bench.harness.results.RESULTS", tmp_path / "results")
    monkeypatch.setattr(zoo, "DOCS", tmp_path / "docs" / "zoo.md")
    monkeypatch.setattr(zoo, "walk_in_process", refuse)
    monkeypatch.setattr(zoo, "ENTRIES", {name: ENTRIES[name] for name in ("timm/ViT", "torchvision/swin_t")})
    for arguments, walked in (
        (["--only", "torchvision/swin_t"], 1),
        ([], 1),
        ([], 0),
        (["--only", "timm/ViT"], 1),
        (["--fresh"], 2),
    ):
        monkeypatch.setattr("sys.argv", ["zoo", *arguments])
        zoo.main()
        assert capsys.readouterr().out.count("none of these") == walked
    rows = json.loads((tmp_path / "results" / "zoo.json").read_text())["rows"]
    assert [row["family"] for row in rows] == ["ViT", "swin_t"]
    assert "0 of 2 trace, calibrate" in (tmp_path / "docs" / "zoo.md").read_text()


def test_a_library_that_is_not_installed_leaves_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.harness.results.RESULTS", tmp_path / "results")
    monkeypatch.setattr(zoo, "DOCS", tmp_path / "docs" / "zoo.md")
    monkeypatch.setattr(zoo, "find_spec", lambda _: None)
    monkeypatch.setattr("sys.argv", ["zoo", "--only", "transformers/ViT"])
    zoo.main()
    assert not (tmp_path / "results" / "zoo.json").exists()


def test_a_misspelt_model_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["zoo", "--only", "timm/Swim"])
    with pytest.raises(SystemExit):
        zoo.main()
    assert "invalid choice: 'timm/Swim'" in capsys.readouterr().err


def test_the_page_has_a_table_for_each_source() -> None:
    rows = [
        _row("timm/ViT"),
        _row("torchvision/swin_t", sqnr_db=None, macs=90, saved=False, kept_float={"a|b": 0.5, "small": 0.004}),
        _row("transformers/ViT", stopped="convert: Error: no\nsuch layer"),
        *(_row(f"features_only/{family}", stopped="build: Error: no pyramid") for family in ("ViT", "DeiT")),
    ]
    page = render(rows, LIBRARIES)
    assert "\n2 of 3 trace, calibrate, convert, run and load, with timm 1, torchvision 2, transformers 3.\n" in page
    assert "| ViT | `vit_tiny_patch16_224` | symbolic | yes | 50.0% | 0 | 30.0 | yes |  |" in page
    assert "| swin_t | `swin_t` | symbolic | yes | 50.0% | +10.0% | - | no | 50% a/b |" in page
    assert "| symbolic | yes |  |  |  |  | stopped at convert: Error: no such layer |" in page
    assert "\nNot made by the library: ViT, DeiT: Error: no pyramid.\n" in page
    assert "\nNot walked yet: swin_v2_t, swin3d_t, vit_b_16, maxvit_t, mvit_v2_s.\n" in page
    assert page.index("\n## timm\n") < page.index("\n## torchvision\n") < page.index("\n## transformers\n")


def _row(entry: Entry | str, **others: Any) -> Row:
    found = ENTRIES[entry] if isinstance(entry, str) else entry
    return {
        "source": found.source,
        "family": found.family,
        "model": found.model,
        "capture": "symbolic",
        "verified": True,
        "coverage": 0.5,
        "sqnr_db": 30.0,
        "macs": 100,
        "counted_macs": 100,
        "kept_float": {},
        "saved": True,
    } | others
