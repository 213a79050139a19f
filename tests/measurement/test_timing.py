"""Interleaved timing: fair order, honest statistics."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch

from fxquant.errors import ConfigError
from fxquant.measurement.environment import describe_environment
from fxquant.measurement.timing import Timing, time_interleaved


def test_statistics() -> None:
    timing = Timing((4.0, 1.0, 3.0, 2.0, 5.0))
    assert timing.median == 3
    assert timing.quartiles == (2, 4)
    assert Timing((7.0,)).quartiles == (7, 7)


def test_percentiles_are_interpolated() -> None:
    timing = Timing(tuple(float(i) for i in range(101)))
    assert (timing.percentile(1), timing.percentile(50), timing.percentile(95)) == (1, 50, 95)
    assert Timing((1.0, 2.0)).percentile(95) == pytest.approx(1.95)
    assert Timing((7.0,)).percentile(95) == 7
    with pytest.raises(ConfigError, match="percent must be 1 to 99, got 100"):
        timing.percentile(100)


def test_speedup_is_the_median_of_ratios_within_rounds() -> None:
    fast, slow = Timing((1.0, 10.0, 1.0)), Timing((2.0, 20.0, 3.0))
    assert fast.speedup_over(slow) == 2
    assert slow.speedup_over(fast) == 0.5


def test_each_round_starts_with_another_competitor() -> None:
    calls: list[str] = []
    competitors = {name: functools.partial(calls.append, name) for name in "abc"}
    timings = time_interleaved(competitors, rounds=3, seconds_per_round=0)
    assert "".join(calls) == "aabbcc" + "aabbcc" + "bbccaa" + "ccaabb"  # the first ones find out how many calls to time
    assert {name: len(t.seconds) for name, t in timings.items()} == {"a": 3, "b": 3, "c": 3}


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that lets seconds pass on the clock of `time_interleaved`, which else stands still."""
    now = [0.0]
    monkeypatch.setattr("fxquant.measurement.timing.time.perf_counter", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def test_slower_is_slower(wait: Callable[[float], None]) -> None:
    competitors = {"fast": lambda: wait(0.0002), "slow": lambda: wait(0.004)}
    timings = time_interleaved(competitors, rounds=3, seconds_per_round=0.001)
    assert timings["slow"].median == pytest.approx(0.004)
    assert timings["fast"].speedup_over(timings["slow"]) > 10


def test_time_limit_leaves_three_rounds(wait: Callable[[float], None]) -> None:
    timings = time_interleaved({"slow": lambda: wait(0.01)}, rounds=50, seconds_per_round=0.01, max_seconds=0.0)
    assert len(timings["slow"].seconds) == 3


def test_rounds_have_to_be_some() -> None:
    with pytest.raises(ConfigError, match="rounds must be at least 1, got 0"):
        time_interleaved({}, rounds=0)


def test_environment_names_versions_but_no_host() -> None:
    environment = describe_environment()
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert environment["processor"]
    assert set(environment["features"]) <= {"avx2", "avx_vnni", "avx512_f"} | {
        f"{unit}_{kind}" for unit in ("avx512", "amx") for kind in ("bf16", "vnni", "int8")
    }
    assert all(isinstance(found, str) for found in environment["engines"].values())
    assert not any("/" in str(value) for key, value in environment.items() if key != "processor")
