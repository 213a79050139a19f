"""Startup: every stage has its seconds, and convert its memory beside the float model."""

from __future__ import annotations

import pytest
import torch

from bench import startup


@pytest.mark.long
def test_stages_of_a_small_model() -> None:
    row = startup.measure_model("test_vit", torch.get_num_threads(), img_size=32)
    stages = row["stages"]
    assert list(stages) == ["trace", "prepare", "calibrate", "convert"]
    assert all(figures["seconds"] >= 0 for figures in stages.values())
    counted = sum(stages[name]["seconds"] for name in ("trace", "prepare", "convert"))
    assert row["seconds_without_calibration"] == pytest.approx(counted, abs=0.01)
    assert row["int8_bytes"] < row["float_bytes"]
    if stages["convert"]["peak_bytes"] is not None:
        assert row["convert_peak_over_float"] == pytest.approx(
            stages["convert"]["peak_bytes"] / row["float_bytes"], abs=1e-3
        )


def test_a_stage_runs_once_even_where_its_peak_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(startup, "peak_bytes", lambda run, device: None)
    stages = startup.Stages()
    assert stages.run("one", lambda: calls.append(1) or "result") == "result"  # type: ignore[func-returns-value]
    assert calls == [1]
    assert stages.figures["one"]["peak_bytes"] is None
