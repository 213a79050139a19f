"""The logits in what a classifier returns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxquant.errors import InputError
from fxquant.ops.make_output import output_leaves


def logits_of(output: Any, where: str) -> Tensor:
    """
    Return the logits ``(B, classes)`` float32 on the CPU that a model gave: its only tensor, or what it calls ``logits``.

    Raises `InputError`, whose message begins with `where`, for any other output and for values that are not finite.
    """
    if not isinstance(output, Tensor):
        values = [t for t in output_leaves(output) if isinstance(t, Tensor)]
        output = getattr(
            output, "logits", output["logits"] if isinstance(output, dict) and "logits" in output else output
        )
        output = values[0] if len(values) == 1 else output
    if not isinstance(output, Tensor) or output.ndim != 2:
        found = f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"{where}: expected logits (B, classes), the model gave {found}: is it a classifier?")
    logits = output.detach().to("cpu", torch.float32)
    if not logits.isfinite().all():
        raise InputError(f"{where}: logits are not finite; check the weights, or try another dtype")
    return logits
