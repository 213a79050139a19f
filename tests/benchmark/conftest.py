"""A ViT of one block, images, and a compiler that does nothing where compiling is not what a test is about."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import fxquant
from fxquant.benchmark.subject import Subject


@pytest.fixture
def subject() -> Subject:
    """Return a float ViT with 12 images to calibrate it."""
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=2, num_classes=10).eval()
    return Subject(model, torch.randn(12, 3, 32, 32), fxquant.recipe("minmax"))


@pytest.fixture
def images() -> Tensor:
    """Return one batch ``(2, 3, 32, 32)``."""
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let compiled models run eagerly."""
    monkeypatch.setattr(torch, "compile", _unchanged)
    monkeypatch.setattr(fxquant, "compile", fxquant.load)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collect no garbage before memory is measured: in a process full of compilers it takes most of the time."""
    monkeypatch.setattr("fxquant.benchmark.memory.gc", SimpleNamespace(collect=lambda: 0))


def _unchanged(model: Any) -> Any:
    return model
