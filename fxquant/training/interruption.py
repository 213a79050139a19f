"""A request to stop. A training heeds it between two steps, where its state is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop(KeyboardInterrupt):
    """Raised between two steps after a request to stop: the state of the training is whole."""


class Interruption:
    """Whether somebody has asked the process to stop."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """
        Note the first SIGINT or SIGTERM while the context is open; the second one acts as it always did.

        Only the main thread can listen.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        def restore() -> None:
            for number, handler in before.items():
                if handler is not None:  # None: installed by something that is not Python
                    signal.signal(number, handler)

        def note(number: int, frame: FrameType | None) -> None:
            self.asked = True
            restore()

        for number in _SIGNALS:
            signal.signal(number, note)
        try:
            yield
        finally:
            restore()

    def heed(self) -> None:
        """Raise `Stop` if somebody has asked to stop."""
        if self.asked:
            raise Stop


def outlive_first_signal(_: int = 0) -> None:
    """
    Keep a loading process alive when its whole process group is asked to stop: the training still waits for its batch.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
