"""How much memory a call takes: exact on a GPU, on a Linux CPU from what the kernel reports of the process."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fxquant.compiling.heap import trim_heap

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def held_bytes(device: torch.device) -> int | None:
    """Return the bytes that the process holds now: allocated on a GPU, resident on a CPU; None where that is unknown."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    trim_heap()
    return _status("VmRSS")


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int | None:
    """Return the most bytes that the process holds during one call of `run`; None where that is unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device)
    gc.collect()
    trim_heap()
    try:
        _CLEAR.write_text("5")  # the peak starts again from what is resident now: man 5 proc
    except OSError:
        return None
    run()
    return _status("VmHWM")


def _status(key: str) -> int | None:
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
