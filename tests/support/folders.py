"""An image folder that a tiny ViT can tell apart, and checkpoints of that ViT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torchvision.datasets import ImageFolder

from tests.support import small_vit as small_vit  # which tells timm of the model

MODEL, TAG = "two_blocks_vit", "untrained"
CLASSES = ("cat", "dog", "eel")
TRAIN, VAL = 10, 7  # images per class


def make_class(folder: Path, count: int, hue: int = 0, seed: int = 0) -> None:
    """Write `count` noisy PNG images of one prevailing colour channel."""
    folder.mkdir(parents=True)
    random = np.random.RandomState(seed)
    for index in range(count):
        pixels = random.randint(0, 200, (40, 48, 3))
        pixels[..., hue] += random.randint(0, 56)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")


def load_folder(model: nn.Module, folder: Path) -> tuple[Tensor, Tensor]:
    """Load all images ``(B, 3, 32, 32)`` and labels ``(B,)`` of a folder by torchvision."""
    transform = create_transform(**resolve_model_data_config(model, args={"img_size": 32}))
    items = list(ImageFolder(str(folder), transform=transform))
    return torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``train`` and ``val``."""
    root = tmp_path_factory.mktemp("images")
    for hue, name in enumerate(CLASSES):
        make_class(root / "train" / name, TRAIN, hue, seed=hue)
        make_class(root / "val" / name, VAL, hue, seed=10 + hue)
    return root


@pytest.fixture(scope="session")
def model(folder: Path) -> nn.Module:
    """Return a ViT whose head was fitted to the features of the train images."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(MODEL, img_size=32, num_classes=3).eval()
    images, labels = load_folder(model, folder / "train")
    with torch.no_grad():
        features = model.forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator]
        centres = torch.stack([features[labels == c].mean(0) for c in range(3)])
        centres -= features.mean(0)
        model.head.weight.copy_(centres)  # type: ignore[union-attr, operator]
        model.head.bias.copy_(-centres @ features.mean(0))  # type: ignore[union-attr, operator]
    return model


@pytest.fixture(scope="session")
def checkpoint(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the model's weights as .safetensors."""
    file = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(model.state_dict(), file)
    return file
