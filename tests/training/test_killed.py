"""Killed at any time, a training goes on to the very weights of one that was left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fxquant.training.state_file import read_state

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_the_weights_are_those_of_a_training_that_was_left_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.killed", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    print(done.stdout)  # where each was killed
    assert done.returncode == 0, done.stderr
    whole, killed = (read_state(tmp_path / name / "checkpoint.pt") for name in ("whole", "killed"))
    for part in ("model", "ema"):
        assert whole[part].keys() == killed[part].keys()
        assert all(torch.equal(value, killed[part][name]) for name, value in whole[part].items())
    moments = [saved["optimizer"]["state"] for saved in (whole, killed)]
    assert all(
        torch.equal(moments[0][i][name], moments[1][i][name]) for i in moments[0] for name in ("exp_avg", "exp_avg_sq")
    )
    log = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("whole", "killed")]
    assert [line.split(",")[:15] for line in log[0]] == [line.split(",")[:15] for line in log[1]]
