"""Commands refuse what cannot work in one line, before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fxquant.cli.main import main
from tests.support.folders import MODEL

SMALL = ("--img-size", "32", "--num-classes", "3")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--save", "m.bin"], "expected a .safetensors file to save to, got 'm.bin'"),
        (["--save", "none/m.safetensors"], "its folder does not exist"),
        (["--json", "."], "it is a folder, expected the name of a file"),
        (["--json", "/dev/null"], "it is no regular file"),
        (["--device", "tpu"], "device 'tpu' cannot be used"),
        (["--device", "meta"], "device 'meta' cannot be used"),
        (["--recipe", "ptq4vt"], "unknown recipe 'ptq4vt', did you mean 'ptq4vit'"),
        (["--option", "foo=1"], "got an unexpected keyword argument 'foo'; see fxquant recipes"),
        (
            ["--target", "fake", "--strict"],
            "--strict fails where products stay float, as they all do with --target fake",
        ),
        (["--synthesis", "iterations=1"], "--synthesis is for --calib synthetic, not for real:32"),
        (["--calib", "none.safetensors"], "--calib: image file 'none.safetensors' does not exist"),
    ],
)
def test_evaluations_that_cannot_work(
    options: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", MODEL, *SMALL, "--data", str(folder), *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("fxquant: error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    "option",
    [
        ["--seed", "4294967296"],
        ["--threads", "100000000"],
        ["--max-unreadable", "101"],
        ["--max-unreadable", "nan"],
        ["--max-unreadable", "5", "--strict-images"],
    ],
)
def test_numbers_out_of_range(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["eval", MODEL, "--data", "d", *option])
    assert raised.value.code == 2
    assert f"argument {option[-2] if len(option) == 2 else option[-1]}: " in capsys.readouterr().err


def test_trainings_that_cannot_work(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = tmp_path / "held"
    held.mkdir()
    (held / "checkpoint.pt").touch()
    (tmp_path / "file").touch()
    cases = [
        (["--recipe", "minmax"], "recipe 'minmax' cannot be trained, vvtq can: "),
        (["--resume", "none.pt"], "--resume: checkpoint 'none.pt' does not exist"),
        (["--evaluate", "none.pt"], "--evaluate: checkpoint 'none.pt' does not exist"),
        (["--out", str(held)], "holds a training already"),
    ]
    for options, message in cases:
        command = ["train", MODEL, *SMALL, "--data", str(folder), "--out", str(tmp_path / "out"), *options]
        assert main(command) == 2
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.out == ""
    assert sorted(os.listdir(tmp_path)) == ["file", "held"]
