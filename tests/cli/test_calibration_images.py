"""`fxquant eval --calib`: real images, noise, images made from the model, or a file of those."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fxquant
from fxquant.cli.main import main
from fxquant.cli.options.calibration import CalibrationSource, calibration_source
from fxquant.synthesis import gaussian_images, save_images
from tests.support.folders import MODEL

SMALL = ["--img-size", "32", "--num-classes", "3", "--batch-size", "8", "--workers", "0", "--limit", "6"]


def run_eval(folder: Path, *arguments: object) -> int:
    return main(["eval", MODEL, "--data", str(folder), "--recipe", "minmax", *SMALL, *map(str, arguments)])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor]]:
    """Return the batches that each calibration got."""
    batches: list[list[Tensor]] = []
    original = fxquant.calibrate

    def calibrate(prepared: Any, given: Any, **options: Any) -> Any:
        batches.append([images for images, _ in given])
        return original(prepared, given, **options)

    monkeypatch.setattr(fxquant, "calibrate", calibrate)
    return batches


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("9", CalibrationSource("real", 9)),
        ("real", CalibrationSource("real", 32)),
        ("real:5", CalibrationSource("real", 5)),
        ("noise", CalibrationSource("noise", 32)),
        ("synthetic:4", CalibrationSource("synthetic", 4)),
        ("a/b.safetensors", CalibrationSource("file", None, Path("a/b.safetensors"))),
    ],
)
def test_sources(text: str, source: CalibrationSource) -> None:
    assert calibration_source(text) == source
    assert calibration_source(str(source)) == source


@pytest.mark.parametrize("text", ["0", "-3", "noise:0", "noise:x", "images", "noise:", "images.png", ""])
def test_what_is_no_source(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"at least 1|real, noise, synthetic"):
        calibration_source(text)


def test_noise(
    folder: Path, checkpoint: Path, tmp_path: Path, seen: list[list[Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "o.json"
    arguments = (
        "--checkpoint",
        checkpoint,
        "--calib",
        "noise:5",
        "--calib-batch-size",
        2,
        "--seed",
        7,
        "--json",
        written,
    )
    assert run_eval(folder, *arguments) == 0
    assert [len(batch) for batch in seen[0]] == [2, 2, 1]
    assert torch.cat(seen[0]).equal(gaussian_images(5, 32, 7))
    assert "5 images, noise:5, seed 7: none of the folder" in capsys.readouterr().out
    calibration = json.loads(written.read_text())["data"]["calibration"]
    assert calibration == {"source": "noise:5", "images": 5, "synthesis": {}}


@pytest.mark.long
def test_synthetic_images_are_made_once_and_serve_any_recipe(
    folder: Path, checkpoint: Path, tmp_path: Path, seen: list[list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = ("--checkpoint", checkpoint, "--calib", "synthetic:2", "--synthesis", "iterations=2")
    assert run_eval(folder, *arguments) == 0
    files = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 1
    changed = files[0].stat().st_mtime_ns
    steps: list[object] = []
    watched = partial(fxquant.synthesize, on_step=steps.append)
    monkeypatch.setattr("fxquant.cli.calibration_images.synthesize", watched)
    assert run_eval(folder, *arguments, "--recipe", "ptq4vit", "--w-bits", 4) == 0
    assert not steps
    assert files[0].stat().st_mtime_ns >= changed
    assert seen[0][0].equal(seen[1][0])
    assert run_eval(folder, *arguments, "--seed", 1) == 0
    assert len(steps) == 4
    assert not seen[2][0].equal(seen[0][0])


def test_a_file(folder: Path, checkpoint: Path, tmp_path: Path, seen: list[list[Tensor]]) -> None:
    file, images = tmp_path / "i.safetensors", torch.randn(3, 3, 32, 32)
    save_images(file, images)
    assert run_eval(folder, "--checkpoint", checkpoint, "--calib", file) == 0
    assert seen[0][0].equal(images)


def test_a_file_of_other_images(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "i.safetensors"
    save_images(file, torch.randn(3, 3, 24, 24))
    assert run_eval(folder, "--calib", file) == 2
    assert "expected images (3, 32, 32)" in capsys.readouterr().err
    assert run_eval(folder, "--calib", tmp_path / "none.safetensors") == 2
    assert "does not exist" in capsys.readouterr().err


def test_images_normalised_for_another_model_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "i.safetensors"
    save_images(file, torch.randn(3, 3, 32, 32), {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]})
    assert run_eval(folder, "--calib", file) == 2
    assert "expected images normalised by mean (0.5, 0.5, 0.5)" in capsys.readouterr().err


def test_options_of_synthesis_are_for_synthetic_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_eval(folder, "--calib", "noise", "--synthesis", "iterations=2") == 2
    assert "--synthesis is for --calib synthetic, not for noise:32" in capsys.readouterr().err
