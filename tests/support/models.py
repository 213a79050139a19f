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


class Conditioned(nn.Module):
    """Attention over ``(B, 6, 16)`` tokens that also reads a class ``(B,)`` and a mask, added to scores or chosen by them."""

    def __init__(self, boolean: bool = False) -> None:
        super().__init__()
        self.boolean = boolean
        self.classes, self.qkv, self.proj = nn.Embedding(5, 16), nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, tokens: Tensor, index: Tensor, mask: Tensor) -> Tensor:
        """Return the tokens ``(B, 6, 16)`` after attention; mask: ``(B, 1, 1, 6)``."""
        x = self.qkv(tokens + self.classes(index)[:, None])
        q, k, v = x.reshape(x.shape[0], 6, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)  # (B, 2, 6, 8)
        scores = q @ k.transpose(-2, -1) * 8**-0.5
        scores = scores.masked_fill(mask, float("-inf")) if self.boolean else scores + mask
        y: Tensor = self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return y


def conditions(boolean: bool = False, batch: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs of `Conditioned`, whose masks are -inf or True for some tokens."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.rand(batch, 1, 1, 6, generator=generator) < 0.3
    hidden[..., 0] = False
    tokens, index = torch.randn(batch, 6, 16, generator=generator), torch.randint(5, (batch,), generator=generator)
    return tokens, index, hidden if boolean else torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))


def _widened(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    return model.eval()
