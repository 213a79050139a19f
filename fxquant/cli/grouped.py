"""A command whose work several processes share, which torchrun started."""

from __future__ import annotations

from collections.abc import Callable

from fxquant.cli.exit_codes import ExitCode
from fxquant.cli.failures import told
from fxquant.distributed import gather_objects, launched, resolve_device, together, work_as_one
from fxquant.errors import InputError


def run_as_one(run: Callable[[], None], device: str, debug: bool) -> int:
    """Call `run` in the group of processes, of which the first one alone prints; return the exit code, the same in all."""

    def on_all() -> int:
        together(run)
        return ExitCode.DONE

    if not launched():
        return told(on_all, debug)
    with work_as_one(_group_device(device)):
        code = told(on_all, debug)
        if code != ExitCode.INTERRUPTED:
            gather_objects(code)  # torchrun stops all as soon as one has failed: let the message come first
    return code


def _group_device(name: str) -> str:
    """Return the device, or the CPU where the command itself is going to refuse it."""
    try:
        resolve_device(name)
    except InputError:
        return "cpu"
    return name
