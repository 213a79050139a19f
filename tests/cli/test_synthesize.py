"""`fxquant synthesize`: the images, what is written beside them, and that an interrupted run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from fxquant.cli import synthesize as command
from fxquant.cli.main import main
from fxquant.cli.options.synthesize import synthesis_option
from fxquant.synthesis import load_images, synthesize
from tests.support.folders import MODEL, TAG

SMALL = ["--img-size", "32", "--num-classes", "3", "--n", "2", "--iterations", "2"]


def run(out: Path, checkpoint: Path, *arguments: object) -> int:
    weights = ["--checkpoint", str(checkpoint)]
    return main(["synthesize", MODEL, *weights, *SMALL, "--out", str(out), *map(str, arguments)])


def test_images_are_those_of_the_function_and_everything_is_written(
    model: nn.Module, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, written = tmp_path / "a.safetensors", tmp_path / "a.json"
    options = ["--seed", 3, "--option", "jitter=1,2,3", "--option", "tv_weight=0.1", "--json", written]
    assert run(out, checkpoint, *options) == 0
    images, metadata = load_images(out)
    given: dict[str, Any] = {"iterations": 2, "jitter": (1, 2, 3), "tv_weight": 0.1}
    assert torch.equal(images, synthesize(model, 2, size=32, seed=3, **given))
    printed = capsys.readouterr().out
    assert f"{MODEL}.{TAG}, 0.1 M parameters, float32 on cpu" in printed
    assert "2 of 3x32x32, 2 together, seed 3" in printed
    assert "3 rounds of 2 iterations" in printed
    assert f"total {metadata['losses']['total']:.3f}, entropy" in printed
    assert metadata["mean"] == [0.5, 0.5, 0.5]
    assert metadata["options"]["jitter"] == [1, 2, 3]
    data = json.loads(written.read_text())
    assert {key: data[key] for key in metadata} == metadata
    assert data["seconds"] > 0
    assert {"torch", "threads"} <= set(data["environment"])
    assert Image.open(tmp_path / "a.png").size == (2 * 34 + 2, 34 + 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.png", "a.safetensors"]


def test_the_same_command_goes_on_after_an_interruption(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "whole.safetensors", tmp_path / "a.safetensors"
    assert run(whole, checkpoint, "--no-sheet") == 0
    real = synthesize

    def interrupted(*arguments: Any, on_step: Any, **options: Any) -> Any:
        def stop(progress: Any) -> None:
            if progress.step == 3:
                raise KeyboardInterrupt

        return real(*arguments, on_step=stop, **options)

    monkeypatch.setattr(command, "synthesize", interrupted)
    assert run(out, checkpoint, "--no-sheet") == 130
    assert f"goes on from {out}.state" in capsys.readouterr().err
    assert not out.exists()
    monkeypatch.setattr(command, "synthesize", real)
    assert run(out, checkpoint, "--no-sheet", "--published") == 2
    assert "published is False there and True here" in capsys.readouterr().err
    assert run(out, checkpoint, "--no-sheet") == 0
    assert "goes on from" in capsys.readouterr().out
    assert torch.equal(load_images(out)[0], load_images(whole)[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "whole.safetensors"]


def test_what_cannot_be_done_is_refused_before_any_work(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    cases: list[tuple[Path, list[str], str]] = [
        (tmp_path / "a.pt", [], "expected a .safetensors file"),
        (tmp_path / "none" / "a.safetensors", [], "its folder does not exist"),
        (out, ["--sheet", str(tmp_path)], "it is a folder, expected the name of a file"),
        (out, ["--option", "iterations=3"], "option iterations is given twice"),
        (out, ["--option", "steps=3"], "unknown option 'steps' of image synthesis"),
        (out, ["--size", "40"], "does not accept an input of shape"),
    ]
    for file, arguments, message in cases:
        assert run(file, checkpoint, *arguments) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_options_are_read_as_the_types_they_have() -> None:
    assert synthesis_option("jitter=15,30") == ("jitter", (15, 30))
    assert synthesis_option("jitter=15") == ("jitter", (15,))
    assert synthesis_option("betas=0.5,0.9") == ("betas", (0.5, 0.9))
    assert synthesis_option("mean=none") == ("mean", None)
    assert synthesis_option("warmup=5") == ("warmup", 5)
    assert synthesis_option("published=true") == ("published", True)
