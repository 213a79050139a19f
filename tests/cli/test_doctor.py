"""`fxquant doctor` takes a timm model or a file, with and without images and labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fxquant.cli.main import main, parse
from fxquant.diagnosis.doctor import CHANGES
from tests.support.folders import make_class

SMALL = ["two_blocks_vit", "--img-size", "32", "--num-classes", "3"]
QUICK = ["--workers", "0", "--no-time"]
RECIPE = ["--recipe", "minmax"]


def test_a_model_on_a_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, facts = tmp_path / "page.html", tmp_path / "facts.json"
    asked = ["--calib", "6", "--changes", "1", "--mean", "0.1", "--expected-top1", "99"]
    written = ["--html", str(page), "--json", str(facts)]
    assert main(["doctor", *SMALL, *QUICK, *RECIPE, *asked, *written, "--data", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "! images are prepared with mean (0.1, 0.1, 0.1), the model's own config says" in out
    assert "calibrate with more images" in out
    assert f"wrote {page}" in out
    assert page.is_file()
    found = json.loads(facts.read_text(encoding="utf-8"))
    assert found["command"] == "doctor"
    assert found["sections"]["preprocessing"]["figures"]["expected_percent"] == 99
    assert found["sections"]["time"]["left_out"] == "times were not to be measured"
    assert list(found["facts"])[-1] == "evaluate"


def test_as_many_changes_are_tried_as_by_the_function() -> None:
    assert parse(["doctor", "vit"]).changes == CHANGES


def test_images_without_labels_of_the_model(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_class(tmp_path / "flat", 8)
    asked = [*QUICK, *RECIPE, "--calib", "2", "--changes", "0", "--data"]
    assert main(["doctor", *SMALL, *asked, str(tmp_path / "flat")]) == 0
    out = capsys.readouterr().out
    assert "there are no class folders: the images have no labels" in out
    assert "accuracy left out: the evaluation images have no labels" in out
    assert main(["doctor", *SMALL[:3], "--num-classes", "5", *asked, str(folder)]) == 0
    out = capsys.readouterr().out
    assert "the model has num_classes 5: indices would not match" in out
    assert "accuracy left out" in out
    (tmp_path / "empty").mkdir()
    assert main(["doctor", *SMALL, *asked, str(tmp_path / "empty")]) == 2
    assert "or class folders of them, in" in capsys.readouterr().err


def test_without_images_and_of_a_saved_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *SMALL, "--no-time", *RECIPE]) == 0
    assert "images   none: --data DIR gives them; noise calibrates" in capsys.readouterr().out
    saved = tmp_path / "small.safetensors"
    quantised = [*SMALL, *RECIPE, "--workers", "0", "--data", str(folder), "--calib", "6", "--save", str(saved)]
    assert main(["eval", *quantised]) == 0
    capsys.readouterr()
    assert main(["doctor", str(saved), *QUICK, "--data", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "quantised top-1 is" in out
    assert "% give or take" in out, "the file says what it reached on this folder"
    assert "left out: it needs the float model, which a quantised graph does not hold" in out
    assert main(["doctor", str(saved), "--recipe", "ema"]) == 2
    assert "--recipe is for a timm model by name" in capsys.readouterr().err
    assert main(["doctor", *SMALL, "--html", str(tmp_path / "no" / "page.html")]) == 2
    assert "its folder does not exist" in capsys.readouterr().err
