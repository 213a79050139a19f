"""The page of the accuracy benchmark follows from the file, and says what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.accuracy.results import AccuracyResults
from bench.accuracy.table import DOCS, main, render
from tests.bench.accuracy.making import FIGURES, IMAGES, cell


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "accuracy.json"


def test_the_page_has_means_ranges_ablations_and_failures(file: Path, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "accuracy.md"
    write_file(file)
    main(["--results", str(file), "--out", str(page)])
    text = page.read_text(encoding="utf-8")
    assert text == render(json.loads(file.read_text(encoding="utf-8")))
    assert "| `minmax` | 50.00 (49.00 to 51.00) | 20.2 | 50.00 of 1 seed | 20.2 of 1 seed |" in text
    assert "Float top-1 61.29 %" in text
    assert "stand-ins" in text
    assert "not ImageNet" in text
    assert '`recipe("base_ptq", metric="cosine")`' in text
    assert "| W8A8, without outliers | 1 | +0.500 | +0.50 | 99.00 | 99.00 |" in text
    assert "- vit without W6A6 ema seed 0: MemoryError: too large" in text
    assert "NoisyQuant: clip" not in text


def test_without_options_it_writes_the_page_that_is_there(tmp_path: Path) -> None:
    main(["--out", str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == DOCS.read_text(encoding="utf-8")


def test_a_missing_results_file_names_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--results", str(tmp_path / "none.json"), "--out", str(tmp_path / "page.md")])
    assert "python -m bench.accuracy" in capsys.readouterr().err


def write_file(file: Path) -> None:
    """Write results of five cells, one of which failed."""
    results = AccuracyResults(file, 32, 1)
    results.expect_images(IMAGES)
    results.add_baseline("vit without", {"top1": 61.29, "parameters": 570_000})
    results.add_cell(cell(), FIGURES | {"top1": 49.0, "int8_top1": 49.5, "int8_agreement": 99.0})
    results.add_cell(cell(seed=1), FIGURES | {"top1": 51.0})
    results.add_cell(cell(bits="W6A6"), FIGURES)
    results.add_cell(cell("base_ptq", metric="cosine"), FIGURES | {"sqnr_db": None})
    results.add_cell(cell("ema", bits="W6A6"), {"stopped": "MemoryError: too large"})
