"""``fxquant export`` writes a saved model in the format that the suffix of the file stands for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import fxquant
from fxquant.cli.main import main
from fxquant.graph.card import ModelCard
from fxquant.graph.meta import set_card
from tests.support.needs_cpu_kernels import needs_kernels


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a small quantised model."""
    model, x = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 4)), torch.randn(4, 3, 16)
    gm = fxquant.quantize(model.eval(), [x], "minmax", progress=False)
    set_card(gm, ModelCard(class_names=("a", "b", "c", "d")))
    file = tmp_path_factory.mktemp("saved") / "own.safetensors"
    fxquant.save(gm, file)
    return file


@pytest.mark.parametrize("options", [[], ["--format", "onnx"]])
def test_the_suffix_or_the_option_says_what_is_written(options: list[str], saved: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the package onnx, of the extra onnx")
    out, report = tmp_path / ("own.bin" if options else "own.onnx"), tmp_path / "facts.json"
    assert main(["export", str(saved), "--out", str(out), *options, "--json", str(report)]) == 0
    facts = {entry.key: entry.value for entry in onnx.load(str(out)).metadata_props}
    assert json.loads(facts["fxquant.class_names"]) == ["a", "b", "c", "d"]
    written = json.loads(report.read_text(encoding="utf-8"))
    assert (written["format"], written["size_bytes"]) == ("onnx", out.stat().st_size)


def test_another_suffix_is_refused(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(saved), "--out", str(tmp_path / "own.tflite")]) == 2
    assert "--out: expected a name that ends in .onnx or .pt2, found" in capsys.readouterr().err


def test_a_program_for_the_backends_of_pt2e(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.pt2"
    options = ["--format", "pt2e", "--activations", "uint8", "--batch", "3"]
    assert main(["export", str(saved), "--out", str(out), *options]) == 0
    program, x = torch.export.load(out), torch.randn(3, 3, 16)
    assert "torch.uint8" in str(program.graph)
    torch.testing.assert_close(program.module()(x), fxquant.load(saved)(x), atol=0.02, rtol=0)  # a code may be the next


@pytest.mark.parametrize(("out", "option"), [("own.onnx", "--batch 2"), ("own.pt2", "--activations int8")])
def test_options_of_other_formats_are_refused(
    out: str, option: str, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(saved), "--out", str(tmp_path / out), *option.split()]) == 2
    assert f"{option.split()[0]} is for --format" in capsys.readouterr().err


@needs_kernels
@pytest.mark.long
def test_a_package_of_aotinductor(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.pt2"
    assert main(["export", str(saved), "--out", str(out)]) == 0
    x = torch.randn(2, 3, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch._inductor.aoti_load_package(str(out))(x), fxquant.load(saved)(x))
