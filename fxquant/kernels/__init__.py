"""
Kernels written for one kind of device, and the choice of which one runs.

An operator of `fxquant.ops` asks `on_cpu_kernels` and `on_triton_kernels` whether kernels take its operands. Otherwise its
own torch implementation runs. `use_backend` decides for a block of code. `use_isa` chooses among the kernels for x86
processors, and `copy_libraries` hands them to programs without Python.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.kernels import cpu
from fxquant.kernels.backend import BACKENDS, chosen_backend, use_backend
from fxquant.kernels.cpu.libraries import copy_libraries
from fxquant.kernels.cpu.loading import use_isa
from fxquant.kernels.forks import tell_of_fork

__all__ = [
    "BACKENDS",
    "chosen_backend",
    "copy_libraries",
    "multiplies_float8",
    "on_cpu_kernels",
    "on_triton_kernels",
    "use_backend",
    "use_isa",
]


def on_cpu_kernels(*tensors: Tensor | None) -> bool:
    """Say whether an operator on these operands runs on fxquant's own kernels for x86 processors."""
    if torch.compiler.is_compiling() or chosen_backend() == "aten":
        return False
    tell_of_fork()
    return (
        all(t is None or (type(t) in (Tensor, torch.nn.Parameter) and t.is_cpu) for t in tensors) and cpu.is_available()
    )


def on_triton_kernels(*tensors: Tensor | None) -> bool:
    """
    Say whether an operator on these operands runs on fxquant's own kernels for NVIDIA GPUs.

    It does under `torch.compile` too, which traces into the kernels. A graph that is exported keeps torch's operators.
    """
    devices = [t.device for t in tensors if t is not None]
    if any(device.type != "cuda" for device in devices):
        return False
    from fxquant.kernels.triton_choice import chooses_triton  # which imports all of torch's compiler

    return bool(chooses_triton(devices[0].index or 0))


def multiplies_float8(codes: Tensor) -> bool:
    """Say whether a product of float8 `codes` runs on units for it of the device that they are on."""
    if not codes.is_cuda:
        return False
    from fxquant.kernels.float8_choice import chooses_float8  # which imports all of torch's compiler

    return bool(chooses_float8(codes.device.index or 0))
