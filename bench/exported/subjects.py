"""What is exported: a small ViT for every recipe, and models of several libraries."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn


class Exported(NamedTuple):
    """A model, the batches that calibrate it, and the images that are compared."""

    model: nn.Module
    calibration: list[Tensor]
    images: Tensor


def small_vit() -> Exported:
    """Return a ViT of two blocks whose weights are wide enough that every layer matters."""
    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 10}
    model = timm.create_model("vit_tiny_patch16_224", **shape)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
    return _drawn(model, 32, 4)


def _drawn(model: nn.Module, size: int, count: int = 2) -> Exported:
    images = torch.randn(2 * count, 3, size, size, generator=torch.Generator().manual_seed(1))
    return Exported(model.eval(), [images[:count]], images[count:])


def _of_timm(name: str, size: int = 224) -> Exported:
    torch.manual_seed(0)
    return _drawn(timm.create_model(name), size)


def _torchvision() -> Exported:
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(image_size=224, patch_size=16, num_layers=4, num_heads=12, hidden_dim=768, mlp_dim=3072)
    nn.init.normal_(model.heads.head.weight, std=0.02)  # which torchvision leaves at zero
    return _drawn(model, 224)


def _hugging_face() -> Exported:
    transformers = importlib.import_module("transformers")
    torch.manual_seed(0)
    shape = {"hidden_size": 384, "num_hidden_layers": 4, "num_attention_heads": 6, "intermediate_size": 1536}
    config = transformers.ViTConfig(**shape, num_labels=1000)
    return _drawn(transformers.ViTForImageClassification(config), 224)


def _dinov2() -> Exported:
    from bench.real.proving import HELD_OUT, load_probe

    model, batches, images, _ = load_probe(112, HELD_OUT, 64)
    return Exported(model, batches, images)


MODELS: dict[str, Callable[[], Exported]] = {
    "DINOv2 ViT-S/14, pretrained": _dinov2,
    "`deit_small_patch16_224`": lambda: _of_timm("deit_small_patch16_224"),
    "`swin_tiny_patch4_window7_224`": lambda: _of_timm("swin_tiny_patch4_window7_224"),
    "`itpn_base`": lambda: _of_timm("itpn_base"),
    "torchvision's ViT-B/16, 4 blocks": _torchvision,
    "a ViT of `transformers`, 4 blocks": _hugging_face,
}
