"""Run a command that was parsed: in a group of processes where there is one, with its errors as messages."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import traceback

import torch

from fxquant.cli.interrupts import INTERRUPTED, end
from fxquant.distributed import gather_objects, is_repeated, launched, resolve_device, together, work_as_one
from fxquant.errors import FxquantError, InputError, reason_of

TRACEBACK = "FXQUANT_TRACEBACK"


def execute(options: argparse.Namespace) -> int:
    """Run the command of parsed `options` and return the exit code: see `fxquant.cli.main.main`."""
    if not (launched() and getattr(options, "shares", False)):
        return _run(options)
    with work_as_one(_group_device(options.device)):
        code = _run(options)
        if code != INTERRUPTED:
            gather_objects(code)  # torchrun stops all as soon as one has failed: let the message come first
    return code


def _group_device(name: str) -> str:
    """Return the device, or the CPU where the command itself is going to refuse it."""
    try:
        resolve_device(name)
    except InputError:
        return "cpu"
    return name


def _run(options: argparse.Namespace) -> int:
    try:
        together(lambda: options.run(options))
        sys.stdout.flush()
    except FxquantError as error:
        if not is_repeated(error):
            print(f"fxquant: error: {error}", file=sys.stderr, flush=True)
        return 2
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        print(f"fxquant: error: out of memory, try a smaller --batch-size: {reason}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("fxquant: interrupted", file=sys.stderr, flush=True)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, end)  # impatience ends what the interpreter still has to tidy up
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe went away, as `head` does; keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        return _report(error)
    return 0


def _report(error: Exception) -> int:
    """Say in one line what went wrong that nobody foresaw; return the exit code."""
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    elif "DefaultCPUAllocator" in str(error):
        print(f"fxquant: error: {reason_of(error)}; try a smaller --batch-size", file=sys.stderr, flush=True)
        return 2
    else:
        print(
            f"fxquant: error: {type(error).__name__}: {reason_of(error)} ({TRACEBACK}=1 shows where)",
            file=sys.stderr,
            flush=True,
        )
    return 1
