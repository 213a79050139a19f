"""
Kernels written for one kind of device, and the choice of which one runs.

An operator of `fxquant.ops` asks `on_cpu_kernels` and `on_triton_kernels` whether kernels take its operands. Otherwise its
own torch implementation runs. `use_backend` decides for a block of code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from fxquant.errors import ConfigError
from fxquant.kernels import cpu, triton

BACKENDS = ("auto", "aten")
_chosen: ContextVar[str] = ContextVar("fxquant_backend", default="auto")


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """
    Run the block with the kernels `name`: "auto" for those of the device, "aten" for torch's own operators alone.

    Both compute the same integer sums and agree to float rounding. Raises `ConfigError` for any other name.
    """
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend {name!r}: expected one of {', '.join(map(repr, BACKENDS))}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen_backend() -> str:
    """Return the name that `use_backend` has set."""
    return _chosen.get()


def on_cpu_kernels(*tensors: Tensor | None) -> bool:
    """Say whether an operator on these operands runs on fxquant's own kernels for x86 processors."""
    if torch.compiler.is_compiling() or _chosen.get() == "aten":
        return False
    return (
        all(t is None or (type(t) in (Tensor, torch.nn.Parameter) and t.is_cpu) for t in tensors) and cpu.is_available()
    )


def on_triton_kernels(*tensors: Tensor | None) -> bool:
    """
    Say whether an operator on these operands runs on fxquant's own kernels for NVIDIA GPUs.

    It does under `torch.compile` too, which traces into the kernels. A graph that is exported keeps torch's operators.
    """
    devices = [t.device for t in tensors if t is not None]
    return all(device.type == "cuda" for device in devices) and bool(_chooses_triton(devices[0].index or 0))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _chooses_triton(device: int) -> bool:
    """Answer once, while a graph is compiled, for the whole compiled graph."""
    if _chosen.get() == "aten" or torch.compiler.is_exporting():
        return False
    return triton.obstacle(device) is None
