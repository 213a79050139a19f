"""How much energy calls take, where the machine counts it: processor packages on Linux (RAPL), and NVIDIA GPUs (NVML)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SECONDS = 2.0
"""That calls are repeated for: counters move once in a millisecond on processors, and once in a tenth of a second on GPUs."""

_POWERCAP = Path("/sys/class/powercap")


def joules_per_call(run: Callable[[], Any], device: torch.device, seconds: float = SECONDS) -> float | None:
    """
    Return the energy of a call of `run`, as the mean over `seconds` of calls; None where the counters cannot be read.

    It is that of whole packages or of the whole GPU, with what they take at rest and for other processes. Linux shows the
    counters of processors, those of AMD too, to root alone unless an administrator decides otherwise.
    """
    since = _gpu_joules(device) if device.type == "cuda" else _package_joules()
    if since is None:
        return None
    calls, end = 0, time.perf_counter() + seconds
    while not calls or time.perf_counter() < end:
        run()
        calls += 1
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return since() / calls


def _package_joules() -> Callable[[], float] | None:
    """Return what gives the joules that all packages have taken since now."""
    try:
        zones = [zone for zone in sorted(_POWERCAP.glob("intel-rapl:*")) if _text(zone / "name").startswith("package")]
        ranges = [int(_text(zone / "max_energy_range_uj")) for zone in zones]
        before = [int(_text(zone / "energy_uj")) for zone in zones]
    except OSError:
        return None

    def since() -> float:
        now = [int(_text(zone / "energy_uj")) for zone in zones]
        return sum((b - a) % top for a, b, top in zip(before, now, ranges, strict=True)) / 1e6

    return since if zones else None


def _gpu_joules(device: torch.device) -> Callable[[], float] | None:
    """Return what gives the joules that a GPU has taken since now."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None
    return lambda: (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1e3


def _text(file: Path) -> str:
    return file.read_text(encoding="ascii").strip()
