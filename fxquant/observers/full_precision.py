"""Quantisers compute in float32 under autocast, too."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """
    Return a context in which no autocast of the device of `x` rounds what is computed from float32.

    Under `torch.export` there is none: a program has no values of such a region, and `torch.export.load` refuses it.
    """
    if torch.compiler.is_exporting():
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)
