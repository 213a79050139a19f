"""Which devices multiply float8 codes: NVIDIA GPUs from Ada and Hopper on, by `torch._scaled_mm`."""

from __future__ import annotations

import functools

import torch

CAPABILITY = (8, 9)  # the first with matrix units for e4m3


@functools.cache
def obstacle(device: int) -> str | None:
    """Return why CUDA device number `device` does not multiply float8 codes, None where it does."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    found, wanted = torch.cuda.get_device_capability(device), CAPABILITY
    if found < wanted:
        return f"expected compute capability {wanted[0]}.{wanted[1]} or later, found {found[0]}.{found[1]}"
    return None
