"""What tells models apart, in a few digits."""

from __future__ import annotations

import hashlib

import torch
from torch import fx, nn


def fingerprint(model: nn.Module) -> str:
    """Return a digest of a model's tensors, and of a graph's code."""
    digest = hashlib.sha256(model.code.encode() if isinstance(model, fx.GraphModule) else b"")
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
