"""Small models that several tests share."""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 32  # images are (B, 3, 32, 32)
_WINDOWS = {"patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}


def small_vit(**options: Any) -> nn.Module:
    """Return timm's ViT of width 32, 2 blocks and 17 tokens, its weights drawn wide enough that every layer matters."""
    options = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 10} | options
    return _widened(timm.create_model("vit_tiny_patch16_224", img_size=SIZE, **options))


def small_swin() -> nn.Module:
    """Return timm's Swin of two stages with windows of 4 x 4 patches, shifted in every second block."""
    return _widened(timm.create_model("swin_tiny_patch4_window7_224", img_size=SIZE, num_classes=10, **_WINDOWS))


def images(batch: int = 4, seed: int = 0) -> Tensor:
    """Return normal images."""
    return torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


class Shared(nn.Module):
    """One linear layer called twice, on values of different range."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.gelu(self.layer(x)) * 4)  # type: ignore[no-any-return]


def _widened(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    return model.eval()
