"""The transformers of torchvision, of images and of videos, on small inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import video
from torchvision.models.video import mvit

from bench.zoo.entry import Entry, images


def entries(source: str) -> list[Entry]:
    """Return an entry of each model."""
    return [Entry(source, name, name, build, inputs) for name, (build, inputs) in _MODELS.items()]


def _maxvit() -> nn.Module:
    """Make `maxvit_t` with windows of 2 x 2, which images of 64 pixels can be cut into, and one block a stage."""
    channels = [64, 128, 256, 512]
    model: nn.Module = models.MaxVit(
        input_size=(64, 64),
        stem_channels=64,
        partition_size=2,
        block_channels=channels,
        block_layers=[1, 1, 1, 1],
        head_dim=32,
        stochastic_depth_prob=0.0,
    )
    return model


def _vit() -> nn.Module:
    """Make `vit_b_16` with two of its blocks, on smaller images."""
    model: nn.Module = models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=12, hidden_dim=768, mlp_dim=3072
    )
    return model


def _mvit() -> nn.Module:
    """Make `mvit_v2_s` with two of its blocks, on smaller videos."""
    blocks = [
        mvit.MSBlockConfig(
            num_heads=heads,
            input_channels=taken,
            output_channels=given,
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=query,
            stride_kv=[1, stride, stride],
        )
        for heads, taken, given, query, stride in (
            (1, 96, 96, [1, 1, 1], 8),
            (2, 96, 192, [1, 2, 2], 4),
        )
    ]
    model: nn.Module = video.MViT(
        spatial_size=(32, 32),
        temporal_size=4,
        block_setting=blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        stochastic_depth_prob=0.0,
    )
    return model


def _video(batch: int, frames: int, size: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 3, frames, size, size),)


_MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[Tensor, ...]]]] = {
    "swin_t": (models.swin_t, partial(images, size=64)),
    "swin_v2_t": (models.swin_v2_t, partial(images, size=64)),
    "swin3d_t": (video.swin3d_t, partial(_video, frames=4, size=64)),
    "vit_b_16": (_vit, partial(images, size=64)),
    "maxvit_t": (_maxvit, partial(images, size=64)),
    "mvit_v2_s": (_mvit, partial(_video, frames=4, size=32)),
}
