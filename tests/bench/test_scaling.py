"""Scaling: one process is measured and compared; `python -m bench.scaling --smoke` starts several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import scaling

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
TASK = scaling.ScalingTask("minmax", "vit_tiny_patch16_224", SMALL, 32, 4, 4, 2, "cpu")


def row(processes: int, seconds: float, digest: str = "a") -> dict[str, Any]:
    facts = {"recipe": "omse", "model": "vit", "device": "cpu", "processes": processes}
    return facts | {"calibration_s": seconds, "evaluation_s": 2 * seconds, "digest": digest}


def test_the_same_task_has_the_same_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    one, other = scaling.measure(TASK), scaling.measure(TASK)
    assert one["digest"] == other["digest"]
    assert one["calibration_s"] > 0
    assert scaling.digest([torch.ones(2)]) != scaling.digest([torch.zeros(2)])


def test_rows_are_compared_with_one_process() -> None:
    one, two, four = scaling.compare([row(1, 4.0), row(2, 2.0), row(4, 8.0, "b")])
    assert (one["calibration_speedup"], two["calibration_speedup"], four["evaluation_speedup"]) == (1.0, 2.0, 0.5)
    assert (one["equal"], two["equal"], four["equal"]) == (True, True, False)
    assert "x2.00" in scaling.describe(two)
    assert "DIFFERENT" in scaling.describe(four)


def test_rows_replace_their_own_earlier_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.harness.results.RESULTS", tmp_path)
    for rows in ([row(1, 1.0), row(2, 2.0)], [row(2, 3.0)]):
        scaling.ROWS.add(*rows)
    found = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert [(each["processes"], each["calibration_s"]) for each in found] == [(1, 1.0), (2, 3.0)]


def test_what_differs_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "launch", lambda task, processes: row(processes, 1.0, str(processes)))
    with pytest.raises(SystemExit, match="do not give what one gives"):
        scaling.main(["--smoke", "--recipes", "omse", "--processes", "1", "2"])
