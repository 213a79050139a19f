"""PSAQ-ViT as the authors' code computed it, recorded in `tests/data/psaq.safetensors`, and its entropy as it is defined."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

FILE = Path(__file__).parents[1] / "data" / "psaq.safetensors"
MODELS = ("deit", "swin")
SIZE = 24


@functools.cache
def recorded() -> dict[str, Tensor]:
    """Return all recorded tensors; nobody writes to them."""
    return load_file(FILE)


def recorded_model(name: str) -> nn.Module:
    """Return the model of a recorded generation, for 3 x 24 x 24 images and 10 classes."""
    with safe_open(FILE, "pt") as file:
        about = json.loads(file.metadata()[name])
    model = timm.create_model(about["timm_model"], **about["timm_kwargs"])
    prefix = f"model_{name}/state/"
    state = {key.removeprefix(prefix): t for key, t in recorded().items() if key.startswith(prefix)}
    found = model.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert all(key.endswith(("relative_position_index", "attn_mask")) for key in found.missing_keys)
    return model.eval()  # type: ignore[no-any-return]


def entropy_by_definition(context: Tensor, images: int, prefix: int, bandwidth: float, grid_size: int) -> Tensor:
    """Return the patch-similarity entropy of a context ``(G, H, N, D)`` by plain autograd, everything kept."""
    tokens = context.mean(1)[:, prefix:]
    similarity = torch.cosine_similarity(tokens.unsqueeze(1), tokens.unsqueeze(2), dim=-1, eps=1e-8)
    samples = similarity.reshape(images, 1, -1)
    low, high = float(samples.detach().min()), float(samples.detach().max())
    grid = torch.linspace(low, high, grid_size, dtype=context.dtype).view(1, -1, 1)
    kernels = torch.exp(-((grid - samples) ** 2) / (2 * bandwidth**2)) / math.sqrt(2 * math.pi * bandwidth**2)
    density = kernels.mean(-1) + 1e-4
    return torch.trapezoid(-density * density.log(), grid.flatten(), dim=1).mean()


def relative(found: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference over the norm of what is wanted."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())
