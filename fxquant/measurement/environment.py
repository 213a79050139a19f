"""What a measurement ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fxquant.version import __version__

# What decides how fast bytes and bfloat16 multiply on an x86 processor.
_FEATURES = ("avx2", "avx_vnni", "avx512_f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
# Engines that the benchmark runs where they are installed.
_ENGINES = ("torchao", "onnx", "onnxruntime", "openvino", "nncf", "triton")


def describe_environment() -> dict[str, Any]:
    """Return versions, processor, threads, accelerator and engines, ready for JSON; no names of hosts, users or paths."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "fxquant": __version__,
        "torch": torch.__version__,
        "timm": version("timm"),
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "features": _features(),
        "gpu": gpu,
        "engines": {name: found for name in _ENGINES if (found := _version(name))},
    }


def _features() -> list[str]:
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return [name for name in _FEATURES if known.get(name)]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
