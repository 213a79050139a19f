"""Being asked to stop: a training ends between two steps, where its state is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop(KeyboardInterrupt):
    """Somebody asked to stop, and the state of the training is whole."""


class Interruption:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take note of the first SIGINT or SIGTERM; another one acts as it always did. Only the main thread can listen."""
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
        """Raise `Stop` where somebody asked to stop."""
        if self.asked:
            raise Stop


def outlive_first_signal(_: int = 0) -> None:
    """Let a loading process go on where its whole group was asked to stop: the training still waits for its batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
