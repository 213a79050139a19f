"""`fxquant pack-labels`: published labels are packed, and it is said what was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fxquant.cli.main import main
from fxquant.distillation import LabelKind, open_labels
from fxquant.distillation.manifest import read_manifest
from tests.support.soft_labels import CLASSES, equal, make_images, publish


def run(labels: Path, data: Path, out: Path, *arguments: object) -> int:
    given = [labels, "--data", data, "--out", out, "--num-classes", CLASSES, *arguments]
    return main(["pack-labels", *map(str, given)])


def test_labels_are_packed_and_it_is_said_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out, written = tmp_path / "data", tmp_path / "packed", tmp_path / "packed.json"
    samples = make_images(data)
    labels = publish(tmp_path / "labels", samples, LabelKind.MARGINAL_RENORM)
    facts = ["--teacher", "big", "--size", 475, "--interpolation", "bicubic"]
    assert run(labels, data, out, "--kind", "marginal_renorm_k5", *facts, "--json", written) == 0
    printed = capsys.readouterr().out
    assert f"{labels}, marginal_renorm, {CLASSES} classes" in printed
    assert f"57 crops of 6 images, marginal_renorm labels of {CLASSES} classes, in " in printed
    assert f"{out}, 1 file, " in printed
    one, other = open_labels(labels, "marginal_renorm", CLASSES), open_labels(out)
    assert all(equal(one.read(file), other.read(file)) for file in samples.files)
    assert read_manifest(out).facts == {"teacher": "big", "size": 475, "interpolation": "bicubic"}
    assert json.loads(written.read_text())["crops"] == 57


def test_labels_of_another_kind_and_missing_ones_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "packed"
    samples = make_images(data)
    labels = publish(tmp_path / "labels", samples, LabelKind.HARD)
    assert run(labels, data, out) == 2
    assert "as marginal_smoothing_k5 labels have, found (9, 4), (9,), (9,)" in capsys.readouterr().err
    assert run(labels / "data", tmp_path / "data", out, "--kind", "hard") == 0
    assert run(tmp_path / "none", data, out, "--kind", "hard") == 2
    assert "none' does not exist" in capsys.readouterr().err
