"""What Ctrl-C does where there is nothing to save: the process ends at once and quietly."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from fxquant.cli.exit_codes import ExitCode


@contextlib.contextmanager
def ended_by_interrupt() -> Iterator[None]:
    """
    Let Ctrl-C end the process while the block imports.

    KeyboardInterrupt raised in the middle of an import is lost or wrapped by what is being imported, and leaves a traceback.
    Only the main thread can listen; in another one the block runs as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # as for jobs in the background
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)


def end(*_: object) -> None:
    """End the process as an interrupted command does, without anything that might be done on the way out."""
    print("fxquant: interrupted", file=sys.stderr, flush=True)
    os._exit(ExitCode.INTERRUPTED)
