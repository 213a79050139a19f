"""The harness's timing: everything is warmed up first, and ratios are of rounds side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from bench.harness import timing
from bench.harness.timing import measure, summarize
from fxquant.measurement.timing import Timing


def test_all_are_warm_before_any_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def time(competitors: Mapping[str, Any], **_: Any) -> dict[str, Timing]:
        assert calls == ["a", "a", "b", "b"]
        return {name: Timing((1.0,)) for name in competitors}

    monkeypatch.setattr(timing, "time_interleaved", time)
    measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 1, "some")


def test_ratios_are_medians_of_rounds_and_no_ratios_of_medians() -> None:
    found = summarize({"a": Timing((1.0, 2.0, 9.0)), "b": Timing((2.0, 8.0, 9.0))}, batch=4)
    assert found["a"]["times_faster_than"] == {"b": 2.0}  # of 2, 4 and 1; the medians give 4
    assert found["b"]["times_faster_than"] == {"a": 0.5}
    assert (found["a"]["median_ms"], found["a"]["ms_per_image"], found["a"]["min_ms"]) == (2000.0, 500.0, 1000.0)
    assert found["a"]["p10_ms"] < found["a"]["median_ms"] < found["a"]["p90_ms"]
