"""`python -m bench.accuracy`: nothing is measured twice, what fails is tried again, what is not known is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import fxquant
from bench.accuracy import measure, run
from bench.accuracy.__main__ import main
from bench.accuracy.cells import Cell
from fxquant.config.recipes.book import RECIPES as KNOWN
from tests.bench.accuracy.making import FIGURES, IMAGES, cell, drawn, tiny_model

COMMON = ["--models", "vit", "--outliers", "without", "--bits", "W8A8", "--limit", str(IMAGES), "--calib", "8"]


@pytest.fixture(autouse=True)
def standins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiny models, and cells measured in this process."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(measure, "load_standin", tiny_model)
    for module in (measure, run):
        monkeypatch.setattr(module, "load_part", drawn)
    monkeypatch.setattr(run, "measure_in_process", measure.measure)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "accuracy.json"


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

    monkeypatch.setattr(run, "measure_in_process", note)
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
    monkeypatch.setattr(run, "measure_in_process", fail)
    with pytest.raises(SystemExit, match="2 cells failed"):
        main(command)
    data = json.loads(file.read_text(encoding="utf-8"))
    assert {row["stopped"] for row in data["rows"].values()} == {"MemoryError: too large"}
    monkeypatch.setattr(run, "measure_in_process", lambda *_: dict(FIGURES))
    main(command)
    assert "stopped" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(("change", "reason"), [(["--limit", "10"], "62 test images"), (["--calib", "4"], "calib 8")])
def test_figures_of_other_images_do_not_mix(
    change: list[str], reason: str, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "measure_in_process", lambda *_: dict(FIGURES))
    command = [*COMMON, "--recipes", "minmax", "--out", str(file)]
    main([*command, "--seeds", "0"])
    with pytest.raises(SystemExit):
        main([*command, "--seeds", "1", *change])
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (["--recipes", "gptr"], "unknown recipe 'gptr'"),
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
