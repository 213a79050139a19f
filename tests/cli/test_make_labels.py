"""`fxquant make-labels`: the folder is that of the function, and a run that was interrupted goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from fxquant.cli import make_labels as command
from fxquant.cli.main import main
from fxquant.data.batches import resolve_data_config
from fxquant.data.folder import read_image_tree
from fxquant.distillation import LabelKind, make_labels, open_labels
from tests.support.folders import CLASSES, MODEL, TAG, TRAIN
from tests.support.soft_labels import equal

IMAGES = len(CLASSES) * TRAIN


def run(folder: Path, checkpoint: Path, out: Path, *arguments: object) -> int:
    small = ["--img-size", 32, "--num-classes", 3, "--crops", 4, "--kind", "smoothing", "--workers", 0]
    given = [MODEL, "--checkpoint", checkpoint, "--data", folder, "--out", out, *small, *arguments]
    return main(["make-labels", *map(str, given)])


def test_labels_are_those_of_the_function_and_it_is_said_what_was_written(
    folder: Path, model: nn.Module, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, written = tmp_path / "labels", tmp_path / "labels.json"
    options = ["--seed", 3, "--scale", 0.5, 1, "--flip", 0, "--images-per-shard", 16, "--json", written]
    assert run(folder, checkpoint, out, *options) == 0
    printed = capsys.readouterr().out
    assert f"{MODEL}.{TAG}, 0.1 M parameters, float32 on cpu" in printed
    assert "4 crops of 3x32x32 per image, smoothing, seed 3" in printed
    assert f"{4 * IMAGES} crops of {IMAGES} images, smoothing labels of 3 classes, in " in printed
    assert f"{out}, 2 files, " in printed
    samples = read_image_tree(folder).calibration
    config = resolve_data_config(model, 32)
    wanted: dict[str, Any] = {"scale": (0.5, 1.0), "flip": 0.0, "seed": 3}
    make_labels(model, samples, config, tmp_path / "other", 4, LabelKind.SMOOTHING, **wanted)
    one, other = open_labels(out), open_labels(tmp_path / "other")
    assert all(equal(one.read(file), other.read(file)) for file in samples.files[::7])
    data = json.loads(written.read_text())
    assert (data["images"], data["crops"], data["files"]) == (IMAGES, 4 * IMAGES, 2)
    assert data["facts"]["teacher"] == data["teacher"]["name"] == f"{MODEL}.{TAG}"


def test_the_same_command_goes_on_after_an_interruption(
    folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels"

    def interrupted(*arguments: Any, **options: Any) -> Any:
        make_labels(*arguments, **options)
        (out / "labels.json").unlink()
        (out / "labels-00001.safetensors").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "make_labels", interrupted)
    assert run(folder, checkpoint, out, "--images-per-shard", 16) == 130
    assert f"the same command goes on from {out}" in capsys.readouterr().err
    monkeypatch.setattr(command, "make_labels", make_labels)
    assert run(folder, checkpoint, out, "--images-per-shard", 16, "--seed", 1) == 2
    assert "seed is 0 there and 1 here" in capsys.readouterr().err
    assert run(folder, checkpoint, out, "--images-per-shard", 16) == 0
    assert "which holds 1 files already" in capsys.readouterr().out


def test_what_cannot_be_done_is_refused_before_any_work(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    cases: list[tuple[Path, list[str], str]] = [
        (tmp_path / "none" / "labels", [], "its parent does not exist"),
        (tmp_path / "file", [], "or it is a file"),
        (tmp_path / "labels", ["--kind", "marginal_smoothing_k5"], "keep 5 classes, the teacher has 3"),
        (tmp_path / "labels", ["--scale", "0.9", "0.1"], "scale must be a range"),
    ]
    for out, arguments, message in cases:
        assert run(folder, checkpoint, out, *arguments) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(folder, checkpoint, tmp_path / "labels", "--kind", "soft")
    assert "unknown kind of labels 'soft': expected one of ori," in capsys.readouterr().err
    assert not (tmp_path / "labels").exists()
