"""
Whether float8 products run on a GPU's own units, asked once for a whole compiled graph.

A module of its own, as `fxquant.kernels.triton_choice` is: imported where tensors lie on a GPU.
"""

from __future__ import annotations

import torch

from fxquant.kernels import float8


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def chooses_float8(device: int) -> bool:
    """Say whether CUDA device number `device` multiplies float8 codes; asked while a graph is compiled."""
    return float8.obstacle(device) is None
