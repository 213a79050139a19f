"""What long work says of itself on the standard error: a bar in terminals and notebooks, a line now and then elsewhere."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, TypeVar

from tqdm.auto import tqdm

from fxquant.distributed import rank
from fxquant.errors import ConfigError

T = TypeVar("T")

VARIABLE = "FXQUANT_PROGRESS_MINUTES"
_MINUTES = 5.0  # a line in a log: few over days, soon enough to see that a job is alive


class Bar:
    """
    How far a piece of work has come, as a context manager. Rank 0 of a process group speaks for all.

    total: how many `update` will count, None where that is unknown. done: how many were counted before. shown: False says
    nothing at all. leave: whether a bar stays in its terminal. Where the standard error is no terminal, a line is written
    every 5 minutes, or as many as the environment variable ``FXQUANT_PROGRESS_MINUTES`` says.
    """

    def __init__(
        self, total: int | None, name: str, unit: str, *, done: int = 0, shown: bool = True, leave: bool = True
    ) -> None:
        self.total, self.name, self.count = total, name, done
        self._shown = shown and rank() == 0
        self._facts: dict[str, str] = {}
        self._began_with, self._began = done, time.monotonic()
        self._interval = 60 * _minutes()
        self._due = self._began + self._interval
        self._bar: Any = None
        if self._shown and draws_bars():
            self._bar = tqdm(total=total, initial=done, desc=name, unit=unit, leave=leave)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def rename(self, name: str) -> None:
        """Say what is being done now."""
        self.name = name
        if self._bar is not None:
            self._bar.set_description(name)

    def note(self, **facts: str) -> None:
        """Say more beside the count, such as a loss, from the next `update` on."""
        self._facts = facts
        if self._bar is not None:
            self._bar.set_postfix(facts, refresh=False)

    def update(self, count: int = 1) -> None:
        """Count `count` more."""
        self.count += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._shown and time.monotonic() >= self._due:
            self._due = time.monotonic() + self._interval
            facts = (f"{name.replace('_', ' ')} {value}" for name, value in self._facts.items())
            _write(", ".join([f"{self.name}: {self._counted()}", *facts, *self._left()]))

    def say(self, text: str) -> None:
        """Write a line of its own, such as at the end of an epoch, with the time that is left."""
        if self._shown:
            _write(", ".join([f"{self.name}: {text}", *self._left()]))

    def _counted(self) -> str:
        return f"{self.count} of {self.total}, {self.count / self.total:.0%}" if self.total else str(self.count)

    def _left(self) -> list[str]:
        """Return the time left, as the time per count has been so far."""
        counted = self.count - self._began_with
        if not self.total or not counted or self.count >= self.total:
            return []
        seconds = (time.monotonic() - self._began) * (self.total - self.count) / counted
        return [f"{datetime.timedelta(seconds=round(seconds))} left"]


def track(items: Iterable[T], name: str, unit: str, *, shown: bool = True, leave: bool = True) -> Iterator[T]:
    """Yield `items` and count them on a `Bar`."""
    with Bar(len(items) if isinstance(items, Sized) else None, name, unit, shown=shown, leave=leave) as bar:
        for item in items:
            yield item
            bar.update()


def say(text: str) -> None:
    """Write a line about work that takes long and cannot be counted, on rank 0."""
    if rank() == 0:
        _write(f"fxquant: {text}")


def draws_bars() -> bool:
    """Say whether the standard error is a terminal or a notebook, where a bar can be drawn over itself."""
    return sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")


def _write(text: str) -> None:
    tqdm.write(text, file=sys.stderr)  # above a bar, where there is one
    sys.stderr.flush()


def _minutes() -> float:
    text = os.environ.get(VARIABLE, "")
    try:
        minutes = float(text) if text else _MINUTES
    except ValueError:
        minutes = -1.0
    if not minutes >= 0:
        raise ConfigError(f"{VARIABLE}: expected a number of minutes, at least 0, found {text!r}")
    return minutes
