"""What a measurement ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def describe_environment() -> dict[str, Any]:
    """Return versions, processor, number of threads and accelerator, ready for JSON; no names of hosts, users or paths."""
    import fxquant

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "fxquant": fxquant.__version__,
        "torch": torch.__version__,
        "timm": version("timm"),
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": gpu,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
