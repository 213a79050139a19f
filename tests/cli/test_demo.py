"""`fxquant demo`: one table with every number it promises; a missing compiler costs a column, not the demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fxquant
from fxquant.cli import demo
from fxquant.cli.main import main
from fxquant.digits import Digits, build_digits_vit, load_test_digits

QUICK = ("--recipe", "minmax", "--rounds", "1")
ROWS = ["float32", "bfloat16"] + [f"W{b}A{b} {target}" for b in (8, 6, 4) for target in ("fake", "int8")]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the demo see 60 images, 16 of them to calibrate, through an untrained model of two blocks."""
    torch.manual_seed(0)
    model, test = build_digits_vit(), load_test_digits()
    model.blocks = model.blocks[:2]  # type: ignore[index, assignment]
    model.eval()
    monkeypatch.setattr(demo, "load_digits_vit", lambda: model)
    monkeypatch.setattr(demo, "load_test_digits", lambda: Digits(test.images[:60], test.labels[:60]))
    monkeypatch.setattr(demo, "CALIBRATION_IMAGES", 16)


def test_table_has_every_row_and_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "demo.json"
    options = ["--no-compile", "--rounds", "2", "--batch-size", "4", "--recipe", "minmax", "--seed", "1"]
    assert main(["demo", *options, "--json", str(written)]) == 0
    out = capsys.readouterr().out
    table = out[out.index("   top-1 %") :].splitlines()
    assert table[0].split("  ")[-1].strip() == "ms eager"
    assert [line[:12].strip() for line in table[1:9]] == ROWS
    assert max(map(len, out.splitlines())) <= 120
    assert max(map(len, table)) <= 100
    assert "in a batch of 4, median of 2 interleaved rounds" in out

    data = json.loads(written.read_text())
    assert [row["name"] for row in data["results"]] == ROWS
    assert {row["images"] for row in data["results"]} == {60}
    results = {row["name"]: row for row in data["results"]}
    assert results["W8A8 int8"]["agreement_percent"] >= results["W4A4 int8"]["agreement_percent"]
    assert results["W8A8 int8"]["size_bytes"] < results["float32"]["size_bytes"] / 2
    assert results["W8A8 int8"]["int8_coverage"] > 0.8
    assert set(data["timings"]) == {"eager"}
    assert set(data["timings"]["eager"]) == {"float32", "bfloat16", "W8A8 int8"}
    assert len(data["timings"]["eager"]["float32"]["seconds"]) == 2
    assert (data["seed"], data["recipe"], data["calibration_images"]) == (1, "minmax", 16)


def test_without_a_compiler_the_table_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class InvalidCxxCompiler(RuntimeError):
        pass

    def compiler(model: Any, **options: Any) -> Any:
        def fail(_: Any) -> None:
            try:
                raise InvalidCxxCompiler("No working C++ compiler found")
            except InvalidCxxCompiler as error:
                raise RuntimeError("backend failed") from error

        return fail

    monkeypatch.setattr(demo, "BITS", (8,))
    monkeypatch.setattr(torch, "compile", compiler)
    written = tmp_path / "demo.json"
    assert main(["demo", *QUICK, "--batch-size", "2", "--json", str(written)]) == 0
    assert capsys.readouterr().out.count("no C++ compiler") == 3
    assert json.loads(written.read_text())["timings"]["compiled"]["float32"] == {
        "failed": "torch.compile failed: no C++ compiler"
    }


def test_compiled_models_are_timed_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fxquant, "compile", lambda gm: gm)
    monkeypatch.setattr(demo, "BITS", (8,))
    monkeypatch.setattr(torch, "compile", lambda model: model)
    assert main(["demo", *QUICK, "--batch-size", "70"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("W8A8 int8"))
    assert float(row.split()[-1]) > 0  # ms compiled
    assert float(row.split()[-2]) > 0  # ms eager
