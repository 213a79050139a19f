"""`python -m bench.standins` writes weights once and whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from bench.standins.__main__ import main
from bench.standins.architectures import load_standin, weights_file
from bench.standins.glyphs import load_part


def test_training_command_writes_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.standins.__main__.load_part", lambda name, count=None: load_part(name, 64))
    command = ["vit", "--seed", "3", "--epochs", "1", "--out", str(tmp_path / "new")]
    main(command)
    file = weights_file("vit", 3, tmp_path / "new")
    assert [file] == list(file.parent.iterdir())
    with safe_open(file, framework="pt") as opened:
        origin = json.loads(opened.metadata()["origin"])
    assert (origin["seed"], origin["epochs"], origin["threads"]) == (3, 1.0, 1)
    assert 0 <= origin["top1"] <= 100
    content, written = file.read_bytes(), file.stat().st_mtime_ns
    main(command)
    assert file.stat().st_mtime_ns == written
    main([*command, "--force"])
    assert file.stat().st_mtime_ns != written
    assert file.read_bytes() == content
    assert not load_standin("vit", 3, file.parent).training


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SystemExit):
        main(["resnet"])
