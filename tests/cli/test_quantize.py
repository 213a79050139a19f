"""`fxquant quantize` saves the model that `fxquant eval` measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fxquant
from fxquant.cli.main import main
from tests.support.folders import MODEL

SMALL = ["--img-size", "32", "--num-classes", "3", "--calib", "9", "--batch-size", "8", "--workers", "0"]


def run_quantize(folder: Path, *arguments: object) -> int:
    return main(["quantize", MODEL, "--data", str(folder), "--recipe", "minmax", *SMALL, *map(str, arguments)])


def test_the_model_is_that_of_eval(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, saved, written = tmp_path / "out.safetensors", tmp_path / "saved.safetensors", tmp_path / "out.json"
    common = ["--checkpoint", str(checkpoint), "--recipe", "minmax", "--seed", "2"]
    assert run_quantize(folder, *common, "--out", out, "--json", written) == 0
    printed = capsys.readouterr().out
    assert main(["eval", MODEL, "--data", str(folder), *SMALL, *common, "--limit", "1", "--save", str(saved)]) == 0
    found, wanted = load_file(out), load_file(saved)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in found)

    report = fxquant.report(fxquant.load(out))
    assert str(report).splitlines()[0] in printed
    assert f"calibrate  9 of 30 images in {folder}/train, seed 2" in printed
    assert f"saved {out}, " in printed
    data = json.loads(written.read_text())
    assert data["command"] == "quantize"
    assert data["int8_coverage"] == report.coverage
    assert len(data["data"]["calibration"]["files"]) == 9
    assert "shares" not in data["arguments"]


def test_what_cannot_be_written_is_refused_first(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_quantize(folder, "--out", tmp_path / "none" / "out.safetensors") == 2
    assert "its folder does not exist" in capsys.readouterr().err


def test_classes_of_the_folder_do_not_matter_nor_do_the_codes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    assert run_quantize(folder, "--num-classes", 5, "--codes", "e4m3", "--out", out) == 0
    assert "W8A8 e4m3, patch embedding float" in capsys.readouterr().out
    loaded = fxquant.load(out)
    assert loaded(torch.randn(1, 3, 32, 32)).shape == (1, 5)
    assert {row.codes for row in fxquant.report(loaded) if row.requested} == {"float8"}
    assert "codes=e4m3" in str(loaded.card.recipe)  # type: ignore[union-attr]
    assert run_quantize(folder, "--codes", "e4m3", "--w-bits", 4, "--out", out) == 2
    assert "codes='e4m3' have 8 bits, got 4 (weight)" in capsys.readouterr().err


def test_a_graph_for_any_size(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    assert run_quantize(folder, "--recipe", "minmax", "--dynamic", "--out", out) == 0
    loaded = fxquant.load(out)
    assert loaded(torch.randn(1, 3, 32, 32)).shape == loaded(torch.randn(1, 3, 64, 48)).shape == (1, 3)


def test_blocks_are_reconstructed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, state, written = (tmp_path / name for name in ("out.safetensors", "state.safetensors", "out.json"))
    options = ["--w-bits", 4, "--reconstruct", 1, "--reconstruction", f"checkpoint={state}", "--out", out]
    assert run_quantize(folder, "--recipe", "minmax", *options, "--json", written) == 0
    assert "blocks trained for 1 iterations" in capsys.readouterr().out
    assert state.is_file()
    assert json.loads(written.read_text())["reconstruction"] == {"iterations": 1, "checkpoint": str(state)}
    assert "reconstruct=1" in str(fxquant.load(out).card.recipe)  # type: ignore[union-attr]


def test_options_of_a_reconstruction_are_checked_first(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    for given, said in (
        (["--reconstruction", "batch_size=8"], "options of --reconstruct: give both"),
        (["--reconstruct", 2, "--reconstruction", "steps=3"], "unknown option 'steps' of reconstruction"),
        (["--reconstruct", 2, "--reconstruction", "iterations=3"], "option iterations is given twice"),
    ):
        assert run_quantize(folder, *given, "--out", out) == 2
        assert said in capsys.readouterr().err


def test_bits_are_chosen_under_a_budget(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, written = tmp_path / "out.safetensors", tmp_path / "out.json"
    assert run_quantize(folder, "--auto", "mean_bits=5", "--out", out, "--json", written) == 0
    assert "parts other than configured, budget met" in capsys.readouterr().out
    chosen = json.loads(written.read_text())["auto"]
    assert 4 < chosen["point"]["costs"]["mean_bits"] <= 5
    graph = fxquant.load(out)
    found = {o.dtype for row in fxquant.report(graph) for o in row.operands if o.name == "weight"}
    assert len(found) > 1
    assert "auto=mean_bits=5" in str(graph.card.describe())


def test_a_budget_that_is_none_is_refused_first(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_quantize(folder, "--auto", "speed=2", "--out", tmp_path / "out.safetensors") == 2
    assert "expected a budget such as error=0.1,int8=0.9" in capsys.readouterr().err
