"""Processes that are forks of this one, so that none of them has to import anything, and how they end."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable


def start(work: Callable[[], object]) -> int:
    """Return the id of a process that does `work`."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def exit_code(process: int) -> int:
    """Wait for a process to end; return how, a signal as a negative number."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill_within(work: Callable[[], object], seconds: float, draw: random.Random) -> int:
    """Start `work`, kill it at a random moment within so many `seconds`, and return how it ended."""
    process = start(work)
    time.sleep(draw.uniform(0, seconds))
    os.kill(process, signal.SIGKILL)
    return exit_code(process)


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long a process takes for `work`; raise `SystemExit` where it fails."""
    began = time.perf_counter()
    code = exit_code(start(work))
    if code:
        raise SystemExit(f"a process that nobody disturbed ended with {code}")
    return time.perf_counter() - began
