"""What every benchmark shares: the interleaved run, its summary, and the JSON file that README figures come from."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fxquant.files import write_json
from fxquant.measurement.environment import describe_environment
from fxquant.measurement.timing import Timing, time_interleaved

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
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


def write_results(name: str, rows: Any, **facts: Any) -> Path:
    """Write ``bench/results/<name>.json``: the rows, how they were measured and on what."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    write_json(file, describe_run() | facts | {"rows": rows})
    return file


def describe_run() -> dict[str, Any]:
    """Return when, from which commit and on what something is measured."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"date": now, "commit": _commit(), "environment": describe_environment()}


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.strip() or "unknown"
