"""A walk through all verbs gives a row, whatever happens on the way."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import torch
from torch import nn

import fxquant
from bench.zoo import walk as module
from bench.zoo.walk import TIME_LIMIT, walk, walk_in_process
from fxquant.errors import FxquantError


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)


def test_a_small_model_reaches_the_end() -> None:
    row = walk("test_vit")
    assert "stopped" not in row
    assert row["exact"] is True
    assert 0 < row["coverage"] <= 1
    assert row["sqnr_db"] > 5


def test_an_error_is_kept_with_its_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: nn.Module) -> nn.Module:
        raise FxquantError("no\nsuch layer")

    monkeypatch.setattr(fxquant, "convert", fail)
    row = walk("test_vit")
    assert row["stopped"] == "convert: FxquantError: no\nsuch layer"
    assert row["exact"] is True
    assert row["coverage"] is None


@pytest.mark.parametrize(
    ("stdout", "stderr", "stopped"),
    [
        ("", "Traceback\nMemoryError\n", "trace: exit status -9: MemoryError"),
        ("[1]\n", "", "trace: exit status -9: no output"),
        ('{"model": "vit"}\nnoise', "Aborted", None),  # it was killed once it had said what it found
    ],
)
def test_a_process_that_is_killed_has_a_row(
    stdout: str, stderr: str, stopped: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess[str]([], -9, stdout, stderr)
    monkeypatch.setattr(module, "run_module", lambda *_, **__: done)
    row = walk_in_process("vit")
    assert row["model"] == "vit"
    assert row.get("stopped") == stopped


def test_a_process_that_never_ends_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(*_: Any, timeout: float) -> None:
        raise subprocess.TimeoutExpired("vit", timeout)

    monkeypatch.setattr(module, "run_module", wait)
    assert walk_in_process("vit")["stopped"] == f"trace: time limit of {TIME_LIMIT} s"
