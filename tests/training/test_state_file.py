"""Checkpoints: whole or not there, the one before kept, those of another training refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from fxquant import CheckpointError
from fxquant.training.state_file import StateFile, previous_of, read_state

SETTINGS = {"model": "tiny", "lr": 0.1, "betas": (0.9, 0.999)}


def state(step: int) -> dict[str, Any]:
    progress = {"step": step, "history": [{"top1": None}]}
    return {"model": {"w": torch.full((64,), float(step))}, "optimizer": {}, "ema": None, "freezer": None} | {
        "progress": progress
    }


def open_file(tmp_path: Path, **changes: Any) -> StateFile:
    return StateFile(tmp_path / "checkpoint.pt", SETTINGS | changes, 0.0)


def test_what_was_written_is_read_and_the_one_before_is_kept(tmp_path: Path) -> None:
    file = open_file(tmp_path)
    for step in (1, 2, 3):
        file.write(state(step))
    read = open_file(tmp_path).read()
    assert read["progress"] == state(3)["progress"]
    assert torch.equal(read["model"]["w"], torch.full((64,), 3.0))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]
    assert open_file(tmp_path).read(previous_of(tmp_path / "checkpoint.pt"))["progress"]["step"] == 2


def test_every_setting_that_differs_is_named(tmp_path: Path) -> None:
    open_file(tmp_path).write(state(1))
    with pytest.raises(
        CheckpointError, match=r"lr is 0\.1 there and 0\.2 here; w_bits is not set there and 4 here\. Give"
    ):
        open_file(tmp_path, lr=0.2, w_bits=4).read()


def test_damage_anywhere_is_noticed_and_the_one_before_is_named(tmp_path: Path) -> None:
    file = open_file(tmp_path)
    file.write(state(1))
    file.write(state(2))
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(torch.full((64,), 2.0).numpy().tobytes()) + 10] ^= 1
    cases = [whole[: len(whole) * part // 7] for part in range(7)] + [bytes(flipped), b"x" * 1000]
    for content in cases:
        path.write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"it is damaged.*--resume .*checkpoint\.previous\.pt goes on from there"
        ):
            open_file(tmp_path).read()
    # Going on from the one before does not replace it by the damaged one.
    resumed = open_file(tmp_path)
    assert resumed.read(previous_of(path))["progress"]["step"] == 1
    resumed.write(state(5))
    assert read_state(path)["progress"]["step"] == 5
    assert read_state(previous_of(path))["progress"]["step"] == 1


def test_other_files_are_refused_and_run_no_code(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    with pytest.raises(CheckpointError, match="does not exist"):
        read_state(file)
    torch.save({"state_dict": {}}, file)
    with pytest.raises(CheckpointError, match="is none that a training wrote"):
        read_state(file)
    torch.save({"kind": "fxquant_training", "format": 99}, file)
    with pytest.raises(CheckpointError, match="has format 99, this fxquant reads 1"):
        read_state(file)
    torch.save({"kind": "fxquant_training", "format": 1}, file)
    with pytest.raises(CheckpointError, match="does not hold a whole state"):
        read_state(file)
    torch.save(_Trap(str(tmp_path / "sprung")), file)
    with pytest.raises(CheckpointError):
        read_state(file)
    assert not (tmp_path / "sprung").exists()


class _Trap:
    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        return os.mkdir, (self.name,)


def test_the_trap_works() -> None:
    assert b"sprung" in pickle.dumps(_Trap("sprung"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = open_file(tmp_path)
    file.write(state(1))

    def fail(*_: object) -> None:
        raise RuntimeError("no space left")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(CheckpointError, match=r"cannot write .*: no space left"):
        file.write(state(2))
    monkeypatch.undo()
    assert open_file(tmp_path).read()["progress"]["step"] == 1


def test_without_a_file_nothing_is_due(tmp_path: Path) -> None:
    file = StateFile(None, SETTINGS, 0.0)
    assert not file.due
    file.write(state(1))
    assert open_file(tmp_path).due
    assert not StateFile(tmp_path / "checkpoint.pt", SETTINGS, 60.0).due
