"""Time competitors against each other: interleaved rounds, medians, quartiles and ratios."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fxquant.errors import ConfigError
from fxquant.progress import track


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds per call of one competitor, one mean per round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile, seconds."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        lower, _, upper = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return lower, upper

    def percentile(self, percent: int) -> float:
        """Return the seconds that `percent` of the rounds, 1 to 99, did not exceed, interpolated between rounds."""
        if not 1 <= percent <= 99:
            raise ConfigError(f"percent must be 1 to 99, got {percent}")
        if len(self.seconds) < 2:
            return self.seconds[0]
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[percent - 1]

    def speedup_over(self, other: Timing) -> float:
        """Return how many times faster this is than `other`, the median of the ratios of rounds timed side by side."""
        return statistics.median(b / a for a, b in zip(self.seconds, other.seconds, strict=True))


def time_interleaved(
    competitors: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 11,
    seconds_per_round: float = 0.05,
    max_seconds: float = math.inf,
    description: str = "time",
    progress: bool = True,
) -> dict[str, Timing]:
    """
    Time each competitor once per round, each round starting with another one, so that drift of the machine hits all alike.

    A competitor is called often enough to fill `seconds_per_round`, at least once, after one call that is not counted. Where
    torch has an accelerator it is synchronised around each measurement. Past `max_seconds` no new round begins, but at least
    three are timed: ``len(timing.seconds)`` tells how many. progress: whether to show how far it has come.

    Raises `ConfigError` unless `rounds` is at least 1.
    """
    if rounds < 1:
        raise ConfigError(f"rounds must be at least 1, got {rounds}")
    calls = {name: _calls_to_fill(function, seconds_per_round) for name, function in competitors.items()}
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    names = list(competitors)
    end = time.perf_counter() + max_seconds
    for turn in track(range(rounds), description, "round", shown=progress, leave=False):
        if turn >= 3 and time.perf_counter() > end:
            break
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            seconds[name].append(_seconds_per_call(competitors[name], calls[name]))
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def _calls_to_fill(function: Callable[[], Any], seconds: float) -> int:
    return max(1, round(seconds / max(_seconds_per_call(function, 1), 1e-9)))


def _seconds_per_call(function: Callable[[], Any], calls: int) -> float:
    function()  # not timed: brings back the caches that another competitor used
    _synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    _synchronize()
    return (time.perf_counter() - start) / calls


def _synchronize() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
