"""What a failed command says, and the exit code that it ends with."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable

from fxquant.cli.exit_codes import ExitCode
from fxquant.cli.interrupts import end
from fxquant.errors import FxquantError, reason_of


def told(run: Callable[[], int], debug: bool) -> int:
    """
    Call `run` and return the exit code that it gives; where it fails, say in one line why, and return the code for that.

    debug: print the traceback before that line.
    """
    try:
        code = run()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("fxquant: interrupted", file=sys.stderr, flush=True)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, end)  # impatience ends what the interpreter still has to tidy up
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe went away, as `head` does; keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.UNREAD
    except Exception as error:
        if debug:
            traceback.print_exc()
        code, message = _judged(error)
        if message:
            print(f"fxquant: error: {message}", file=sys.stderr, flush=True)
        return code


def _judged(error: Exception) -> tuple[ExitCode, str]:
    """Return the exit code of an error, and its message, which is empty where another process tells it."""
    if isinstance(error, FxquantError):
        from fxquant.distributed import is_repeated  # which imports torch

        return ExitCode.REFUSED, "" if is_repeated(error) else str(error)
    if "DefaultCPUAllocator" in str(error):
        return ExitCode.REFUSED, f"{reason_of(error)}; try a smaller --batch-size"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        reason = str(error).partition(". ")[0] or "no memory is left"
        return ExitCode.REFUSED, f"out of memory, try a smaller --batch-size: {reason}"
    return ExitCode.UNFORESEEN, f"{type(error).__name__}: {reason_of(error)} (--debug shows where)"
