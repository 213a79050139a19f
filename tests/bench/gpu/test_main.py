"""`bench.gpu` says why it cannot run, measures each cell once and keeps what it has measured."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu import cells, checks
from bench.gpu.__main__ import main
from bench.harness.results import describe_run
from fxquant.kernels import triton


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let the benchmark believe in a device, and return the file of its results."""
    monkeypatch.setattr(triton, "obstacle", lambda index: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr("bench.harness.results.RESULTS", tmp_path)
    monkeypatch.setattr(cells, "run_cell", _cell)
    return tmp_path / "gpu_nvidia_h200.json"


def _cell(name: str, batch: int, rounds: int, with_aten: bool) -> dict[str, Any]:
    forms = [cells.BASELINE, "int8 triton", *(["int8 aten"] if with_aten else [])]
    ratios = {form: {"median_ms": 1.0, "times_faster_than": dict.fromkeys(forms, 1.0)} for form in forms}
    commit = describe_run()["commit"]
    return {"model": cells.MODELS[name], "batch": batch, "commit": commit, "float_layers": {}, "results": ratios}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    return main()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("arguments", [(), ("--check",)])
def test_ends_with_two_where_there_is_no_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert "needs a CUDA device that fxquant has kernels for: " in capsys.readouterr().err


def test_every_cell_is_there_once_and_the_target_comes_first() -> None:
    assert sorted(cells.CELLS) == sorted(itertools.product(cells.MODELS, (1, 8, 64, 256)))
    assert set(cells.CELLS[:4]) == set(itertools.product(("ViT-B", "ViT-L"), (64, 256)))


@pytest.mark.usefixtures("device")
def test_wrong_kernels_are_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: Path
) -> None:
    monkeypatch.setattr(checks, "CHECKS", {"one": lambda: iter([None]), "two": lambda: iter([None, "off by 3"])})
    assert run(monkeypatch) == 1
    assert capsys.readouterr().out.splitlines() == ["ok      one: 1 cases", "FAILED  two: off by 3"]
    assert not device.exists()


def test_measures_what_time_allows_and_goes_on_from_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: Path
) -> None:
    assert run(monkeypatch, "--no-check", "--seconds", "0") == 0
    assert "no time for 15 cells" in capsys.readouterr().out
    (row,) = json.loads(device.read_text())["rows"]
    assert (row["model"], row["batch"]) == ("vit_base_patch16_224", 64)
    assert "int8 aten" in row["results"]
    assert run(monkeypatch, "--no-check") == 0
    assert len(json.loads(device.read_text())["rows"]) == 16
    assert "ViT-B batch 64" not in capsys.readouterr().out, "it was measured before"
    assert run(monkeypatch, "--no-check", "--again", "--models", "ViT-B", "--batch", "64") == 0
    assert "ViT-B batch 64" in capsys.readouterr().out
