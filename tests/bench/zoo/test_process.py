"""A model that is walked in a process of its own has a row, also where the process is killed or never ends."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.zoo import process
from bench.zoo.entries import ENTRIES
from bench.zoo.process import walk_in_process

ENTRY = ENTRIES["timm/ViT"]


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str, Path], None]], None]:
    """Let a function do in the process what walking does there."""
    monkeypatch.setattr(
        process, "_CONTEXT", multiprocessing.get_context("fork")
    )  # the other method would import torch again
    return lambda function: monkeypatch.setattr(process, "_write_row", function)


def _end(key: str, folder: Path) -> None:
    (folder / "row.json").write_text(json.dumps({"family": key}))


@pytest.mark.parametrize("equal", [True, False])
def test_what_was_saved_is_loaded_here(
    equal: bool, walked: Callable[[Callable[[str, Path], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    walked(_end)
    monkeypatch.setattr(process, "is_saved", lambda _: equal)
    assert walk_in_process(ENTRY) == {"family": "timm/ViT", "saved": equal}


def test_a_file_that_cannot_be_loaded_stops_the_walk(walked: Callable[[Callable[[str, Path], None]], None]) -> None:
    walked(_end)  # it leaves no file
    assert walk_in_process(ENTRY)["stopped"].startswith("load: FileNotFoundError")


def test_a_process_that_is_killed(walked: Callable[[Callable[[str, Path], None]], None]) -> None:
    walked(lambda *_: os._exit(9))
    row = walk_in_process(ENTRY)
    assert (row["model"], row["stopped"]) == ("vit_tiny_patch16_224", "exit status 9")


def test_a_process_that_never_ends(walked: Callable[[Callable[[str, Path], None]], None]) -> None:
    walked(lambda *_: time.sleep(60))
    assert walk_in_process(ENTRY, limit=0.1)["stopped"] == "time limit of 0.1 s"
