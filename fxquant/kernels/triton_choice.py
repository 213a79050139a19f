"""
Whether Triton kernels run, asked once for a whole compiled graph.

A module of its own, imported where tensors lie on a GPU, as `torch.compiler.assume_constant_result` imports torch's compiler.
"""

from __future__ import annotations

import torch

from fxquant.kernels import triton
from fxquant.kernels.backend import chosen_backend


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def chooses_triton(device: int) -> bool:
    """Say whether operators on CUDA device number `device` run on the Triton kernels; asked while a graph is compiled."""
    if chosen_backend() == "aten" or torch.compiler.is_exporting():
        return False
    return triton.obstacle(device) is None
