"""
Kernels for NVIDIA GPUs, written in Triton.

fxquant also works without Triton. `obstacle` imports `fxquant.kernels.triton.operators`, which calls the kernels, after it
has found that they can run.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fxquant.kernels.triton.results import DTYPES, WIDEST_NORM

if TYPE_CHECKING:
    from fxquant.kernels.triton import operators

__all__ = ["fits", "multiplies", "normalizes", "obstacle", "operators", "quantizes"]

CAPABILITY = (8, 0)  # the first whose matrix units Triton has bytes for


@functools.cache
def obstacle(device: int) -> str | None:
    """Return why the kernels cannot run on CUDA device number `device`; if they can, import them and return None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    found, wanted = torch.cuda.get_device_capability(device), CAPABILITY
    if found < wanted:
        return f"expected compute capability {wanted[0]}.{wanted[1]} or later, found {found[0]}.{found[1]}"
    importlib.import_module("fxquant.kernels.triton.operators")
    return None


def fits(codes: Tensor, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> bool:
    """Say whether `operators.linear` takes these operands."""
    return weight.dtype is torch.int8 and dtype in DTYPES and scale.dtype is torch.float32 and codes.numel() > 0


def quantizes(x: Tensor) -> bool:
    """Say whether `operators.quantize` takes values such as `x`."""
    return x.dtype in DTYPES and x.numel() > 0


def normalizes(x: Tensor) -> bool:
    """Say whether `operators.layer_norm_quantize` takes values such as `x`."""
    return quantizes(x) and x.shape[-1] <= WIDEST_NORM


def multiplies(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    """Say whether `operators.matmul` takes these operands."""
    return dtype in DTYPES and min(a.dim(), b.dim()) >= 2 and a.numel() > 0 and b.numel() > 0
