"""Competitors timed side by side, and what is said of their times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fxquant.measurement.timing import Timing, time_interleaved

Competitor = Callable[[], Any]


def measure(competitors: Mapping[str, Competitor], rounds: int, description: str) -> dict[str, Timing]:
    """Warm each competitor up, which compiles what compiles, then time them all in interleaved rounds."""
    for run in competitors.values():
        run()
        run()
    return time_interleaved(competitors, rounds=rounds, seconds_per_round=0.2, description=description)


def summarize(timings: Mapping[str, Timing], batch: int) -> dict[str, Any]:
    """
    Return milliseconds per call of a batch, and how many times faster each competitor is than each other one.

    The ratios are medians of the ratios of rounds timed side by side, which a busy machine disturbs less than medians do.
    """
    return {
        name: {
            "median_ms": round(timing.median * 1e3, 3),
            "p10_ms": round(timing.percentile(10) * 1e3, 3),
            "p90_ms": round(timing.percentile(90) * 1e3, 3),
            "min_ms": round(min(timing.seconds) * 1e3, 3),
            "ms_per_image": round(timing.median * 1e3 / batch, 3),
            "times_faster_than": {
                other: round(timing.speedup_over(theirs), 3) for other, theirs in timings.items() if other != name
            },
        }
        for name, timing in timings.items()
    }
