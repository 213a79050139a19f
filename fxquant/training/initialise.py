"""The first scales of a prepared model."""

from __future__ import annotations

from torch import Tensor, fx

import fxquant
from fxquant.distributed import broadcast_module, rank


def initialise_scales(prepared: fx.GraphModule, images: Tensor, seed: int = 0, progress: bool = True) -> None:
    """
    Set the first scales of the activations by one forward pass over rank 0's `images` ``(B, 3, H, W)``, in eval mode.

    All ranks then have the model of rank 0. Raises what `fxquant.calibrate` raises.
    """
    prepared.eval()
    device = next(prepared.parameters()).device
    broadcast_module(prepared)
    own = [images.to(device)] if rank() == 0 else []  # the same on all ranks, they would count as a batch of each
    fxquant.calibrate(prepared, own, progress=progress, seed=seed)
    broadcast_module(prepared)
