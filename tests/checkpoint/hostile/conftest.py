"""Files to change, and a watch over what loading them runs."""

from __future__ import annotations

import builtins
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import fxquant
from tests.support.checkpoints import at_stage


@pytest.fixture(autouse=True)
def canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where anything imports the canary or runs a command."""

    def caught(*args: Any, **kwargs: Any) -> None:
        pytest.fail(f"code of the file was run: {args}")

    class Canary:
        def find_spec(self, name: str, *args: Any) -> None:
            if name == "fxquant_canary":
                caught(name)

    monkeypatch.setattr(os, "system", caught)
    monkeypatch.setattr(builtins, "breakpoint", caught)
    monkeypatch.setattr(sys, "meta_path", [Canary(), *sys.meta_path])
    # Makes torch.fx put what is known about each node into the source it runs.
    monkeypatch.setenv("FX_GRAPH_SHOW_META", "1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "model.safetensors"
    fxquant.save(at_stage("conv", "int8"), target)
    return target


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    target = tmp_path / "prepared.safetensors"
    fxquant.save(at_stage("conv", "calibrated"), target)
    return target
