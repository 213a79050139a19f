"""Whether two models are one."""

from __future__ import annotations

import torch
from torch import nn


def same(one: nn.Module, other: nn.Module) -> bool:
    """Say whether all tensors of both are equal."""
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())
