"""The accuracy benchmark: a cell gives figures, nothing is measured twice, and the page follows from the file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import fxquant
from bench.accuracy import __main__ as accuracy
from bench.accuracy.__main__ import Cell, draw_calibration, main, measure, measure_float, select_cells, write_data
from bench.accuracy.table import ABLATIONS, RECIPES, render
from bench.accuracy.table import main as write_table
from bench.standins.glyphs import load_part
from fxquant.config.recipes.book import RECIPES as KNOWN

IMAGES = 62
COMMON = ["--models", "vit", "--outliers", "without", "--bits", "W8A8", "--limit", str(IMAGES), "--calib", "8"]
FIGURES = {"top1": 50.0, "sqnr_db": 20.25, "agreement": 90.0, "seconds": 1.5, "cpu_seconds": 1.0, "memory_mib": 8.0}


drawn = cache(load_part)


def tiny_model(name: str) -> nn.Module:
    """An untrained ViT of two narrow blocks, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        size: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
        return VisionTransformer(in_chans=1, num_classes=62, **size).eval()


@pytest.fixture(autouse=True)
def standins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiny models, and cells measured in this process."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(accuracy, "load_standin", tiny_model)
    monkeypatch.setattr(accuracy, "load_part", drawn)
    monkeypatch.setattr(accuracy, "measure_in_process", measure)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "accuracy.json"


def cell(recipe: str = "minmax", outliers: str = "without", seed: int = 0, bits: str = "W8A8", **options: Any) -> Cell:
    return Cell("vit", outliers, bits, recipe, options, seed)


@pytest.mark.parametrize(("name", "outliers"), [("minmax", "without"), ("noisyquant_ptq4vit", "with")])
def test_a_cell_gives_every_figure(name: str, outliers: str, tmp_path: Path) -> None:
    assert write_data(tmp_path, IMAGES) == IMAGES
    baseline = measure_float(tmp_path, "vit", outliers)
    row = measure(cell(name, outliers), tmp_path, 8, 1)
    assert 0 <= baseline["top1"] <= 100
    assert abs(row["top1"] - baseline["top1"]) <= 100 - row["agreement"] + 1e-3
    assert row["sqnr_db"] > 5
    assert row["int8_agreement"] > 80
    assert row["seconds"] > 0
    assert row["memory_mib"] >= 0
    later = measure(cell(name, outliers, seed=1), tmp_path, 8, 1)
    assert "int8_top1" not in later
    assert later["sqnr_db"] != row["sqnr_db"]


def test_calibration_images_follow_the_seed() -> None:
    images = torch.arange(40.0).view(40, 1, 1, 1)
    assert torch.equal(draw_calibration(images, 8, 1), draw_calibration(images, 8, 1))
    assert not torch.equal(draw_calibration(images, 8, 1), draw_calibration(images, 8, 2))
    assert len(draw_calibration(images, 40, 0).unique()) == 40


def test_what_is_measured_is_not_measured_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*COMMON, "--recipes", "minmax", "--out", str(file)]
    main([*command, "--seeds", "0"])
    data = json.loads(file.read_text(encoding="utf-8"))
    assert list(data["rows"]) == [cell().key]
    assert data["images"] == IMAGES
    assert data["rows"][cell().key]["agreement"] > 50
    measured: list[str] = []

    def note(asked: Cell, *_: object) -> dict[str, Any]:
        measured.append(asked.key)
        return dict(FIGURES)

    monkeypatch.setattr(accuracy, "measure_in_process", note)
    main([*command, "--seeds", "0"])
    assert measured == []
    main([*command, "--seeds", "0", "1"])
    assert measured == [cell(seed=1).key]
    main([*command, "--seeds", "0", "--force"])
    assert measured[1:] == [cell().key]
    monkeypatch.setitem(KNOWN, "minmax", partial(fxquant.recipe, "ema"))
    main([*command, "--seeds", "1"])
    assert measured[2:] == [cell(seed=1).key]  # the recipe of that name has changed
    assert list(file.parent.iterdir()) == [file]


def test_a_cell_that_fails_is_told_and_tried_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("too large")

    command = [*COMMON, "--recipes", "minmax", "ema", "--seeds", "1", "--out", str(file)]
    monkeypatch.setattr(accuracy, "measure_in_process", fail)
    with pytest.raises(SystemExit, match="2 cells failed"):
        main(command)
    data = json.loads(file.read_text(encoding="utf-8"))
    assert {row["stopped"] for row in data["rows"].values()} == {"MemoryError: too large"}
    monkeypatch.setattr(accuracy, "measure_in_process", lambda *_: dict(FIGURES))
    main(command)
    assert "stopped" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(("change", "reason"), [(["--limit", "10"], "62 test images"), (["--calib", "4"], "calib 8")])
def test_figures_of_other_images_do_not_mix(
    change: list[str], reason: str, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(accuracy, "measure_in_process", lambda *_: dict(FIGURES))
    command = [*COMMON, "--recipes", "minmax", "--out", str(file)]
    main([*command, "--seeds", "0"])
    with pytest.raises(SystemExit):
        main([*command, "--seeds", "1", *change])
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (["--recipes", "gptq"], "unknown recipe 'gptq'"),
        (["--ablations", "bits"], "unknown ablation bits"),
        (["--bits", "8"], "expected bits such as W8A8"),
        (["--calib", "1000000"], "size of the calibration part"),
        (["--models", "resnet"], "invalid choice"),
    ],
)
def test_what_is_not_known_is_refused_at_once(
    wrong: list[str], reason: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(file), "--limit", "1", "--bits", "W8A8", *wrong])
    assert reason in capsys.readouterr().err
    assert not file.exists()


def test_variants_that_are_the_same_share_a_cell() -> None:
    wanted = {"models": ["vit"], "outliers": ["with"], "bits": ["W8A8", "W4A4"], "recipes": list(RECIPES), "seeds": [0]}
    main_cells = select_cells(argparse.Namespace(**wanted, ablations=None))
    cells = select_cells(argparse.Namespace(**wanted, ablations=[]))
    assert cells[: len(main_cells)] == main_cells
    assert len({c.key for c in cells}) == len(cells)
    variants = {(v.recipe, str(sorted(v.options.items()))) for group in ABLATIONS.values() for v in group if v.options}
    assert len(cells) == len(main_cells) + len(variants)
    assert all(isinstance(c.config, fxquant.QuantConfig) for c in cells)


def test_the_page_has_means_ranges_ablations_and_failures(file: Path, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "accuracy.md"
    write_file(file)
    write_table(["--results", str(file), "--out", str(page)])
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


def test_a_missing_results_file_names_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        write_table(["--results", str(tmp_path / "none.json"), "--out", str(tmp_path / "page.md")])
    assert "python -m bench.accuracy" in capsys.readouterr().err


def write_file(file: Path) -> None:
    """Write results of five cells, one of which failed."""
    results = accuracy.Results(file, 32, 1)
    results.expect_images(IMAGES)
    results.add_baseline("vit without", {"top1": 61.29, "parameters": 570_000})
    results.add(cell(), FIGURES | {"top1": 49.0, "int8_top1": 49.5, "int8_agreement": 99.0})
    results.add(cell(seed=1), FIGURES | {"top1": 51.0})
    results.add(cell(bits="W6A6"), FIGURES)
    results.add(cell("base_ptq", metric="cosine"), FIGURES | {"sqnr_db": None})
    results.add(cell("ema", bits="W6A6"), {"stopped": "MemoryError: too large"})
