"""`bench.gpu` says why it cannot run, measures each cell once and keeps what it has measured."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
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


def _cell(name: str, batch: int, rounds: int, forms: Sequence[str]) -> dict[str, Any]:
    measured = [cells.BASELINE, *(form for form in forms if form in cells.OWN)]
    ratios = {form: {"median_ms": 1.0, "times_faster_than": dict.fromkeys(measured, 1.0)} for form in measured}
    refused = {form: "not installed: it" for form in forms if form not in cells.OWN}
    commit = describe_run()["commit"]
    row = {"model": cells.MODELS[name], "batch": batch, "commit": commit, "float_layers": {}, "results": ratios}
    return row | {"refused": refused}


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
    output = capsys.readouterr().out
    assert "no time for 15 cells" in output
    assert "not measured: TensorRT float8: not installed: it" in output
    (row,) = json.loads(device.read_text())["rows"]
    assert (row["model"], row["batch"]) == ("vit_base_patch16_224", 64)
    assert {"int8 aten", "float8"} < row["results"].keys()
    assert run(monkeypatch, "--no-check") == 0
    assert len(json.loads(device.read_text())["rows"]) == 16
    assert "ViT-B batch 64" not in capsys.readouterr().out, "it was measured before"
    assert run(monkeypatch, "--no-check", "--again", "--models", "ViT-B", "--batch", "64") == 0
    assert "ViT-B batch 64" in capsys.readouterr().out
    only = ("--again", "--models", "DeiT-S", "--batch", "8", "--forms", "float8", "torchao float8")
    assert run(monkeypatch, "--no-check", *only) == 0
    assert "DeiT-S batch 8: bf16 max-autotune 1.000 ms, float8 1.000 ms\n" in capsys.readouterr().out


def test_all_are_measured_at_one_batch_size_and_what_is_quick_at_each() -> None:
    assert cells.forms_at(64, None) == cells.FORMS
    assert cells.forms_at(8, None) == ("int8 triton", "float8")
    assert cells.forms_at(8, ["TensorRT int8", "int8 triton"]) == ("int8 triton", "TensorRT int8")
