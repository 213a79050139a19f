"""Two processes train as one does, and torchrun starts them anew where one is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fxquant.training import train
from fxquant.training.state import State
from fxquant.training.state_file import read_state
from tests.support.trained_models import memory_data, prepared_vit
from tests.support.two_ranks import OPTIONS, keep_gradients

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Return a list that gets the gradients of each step."""
    monkeypatch.setattr(State, "update", State.update)  # put back after the test
    kept: list[dict[str, Tensor]] = []
    keep_gradients(kept)
    return kept


@pytest.mark.long
def test_gradients_are_those_of_one_process_and_a_killed_one_starts_anew(
    tmp_path: Path, gradients: list[dict[str, Tensor]]
) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    command = [sys.executable, *launcher, "-m", "tests.support.two_ranks", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    alone = train(prepared_vit(0.0, norm=True), memory_data(), OPTIONS, progress=False).history

    first = torch.load(tmp_path / "first.pt", weights_only=True)  # as rank 1 had them before it was killed
    assert len(first) == 2
    assert first[0].keys() == gradients[0].keys()
    for name, wanted in gradients[0].items():
        torch.testing.assert_close(first[0][name], wanted, rtol=1e-3, atol=1e-6, msg=name)

    second = torch.load(tmp_path / "second.pt", weights_only=True)
    assert second["steps"] == 6  # the last three epochs, of two steps each
    rows = second["history"]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["loss"] == pytest.approx(alone[0]["loss"], rel=1e-3)
    # Four bits are not smooth: later a rounding error of a sum may be a step of an operand.
    assert rows[3]["loss"] == pytest.approx(alone[3]["loss"], rel=0.1)
    assert rows[3]["images_per_second"] * rows[3]["seconds"] == pytest.approx(12, rel=1e-3)
    assert len(read_state(tmp_path / "checkpoint.pt")["progress"]["history"]) == 4
    kept = ["best.pt", "checkpoint.previous.pt", "checkpoint.pt", "first.pt", "log.csv", "second.pt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == kept
