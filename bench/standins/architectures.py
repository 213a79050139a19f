"""The stand-in models: timm's own classes, small enough to train on one thread, and where their weights are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import build_sincos2d_pos_embed
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from bench.standins.glyphs import CLASSES, IMAGE_SIZE
from fxquant.errors import CheckpointError, InputError

WEIGHTS = Path(__file__).parent / "weights"
_COMMON: dict[str, Any] = {"img_size": IMAGE_SIZE, "in_chans": 1, "num_classes": CLASSES}


def build_standin(name: str) -> nn.Module:
    """
    Build an untrained stand-in, ``(B, 1, 32, 32) -> (B, 62)`` logits, in train mode.

    All have GELU, LayerNorm, softmax attention and a bias on qkv. Global random state decides their weights.

    Raises
    ------
    InputError
        If there is no such stand-in.
    """
    build = STANDINS.get(name)
    if build is None:
        raise InputError(f"unknown stand-in {name!r}: expected one of {', '.join(STANDINS)}")
    return build()


def load_standin(name: str, seed: int = 0, folder: Path = WEIGHTS) -> nn.Module:
    """
    Load a trained stand-in in eval mode, float32 on the CPU, ``(B, 1, 32, 32) -> (B, 62)`` logits.

    Raises
    ------
    InputError
        If there is no such stand-in, or it has not been trained yet.
    CheckpointError
        If the file cannot be read, or holds other weights than this model's.
    """
    with torch.random.fork_rng(devices=[]):
        model = build_standin(name)
    file = weights_file(name, seed, folder)
    if not file.exists():
        raise InputError(f"no weights {file}: train them with `python -m bench.standins {name} --seed {seed}`")
    try:
        model.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{file} does not hold the weights of the stand-in {name!r}: {error}") from error
    return model.eval()


def weights_file(name: str, seed: int, folder: Path = WEIGHTS) -> Path:
    """Return where the weights of a stand-in trained with `seed` are, or will be."""
    return folder / f"{name}_s{seed}.safetensors"


def _build_vit() -> nn.Module:
    """5 blocks of width 96, 3 heads, 64 patches of 4x4 and a class token (N = 65)."""
    return _make_vit(VisionTransformer)


def _build_deit() -> nn.Module:
    """5 blocks of width 96, 3 heads, N = 66 with the distillation token; the mean of two heads at inference."""
    return _make_vit(VisionTransformerDistilled)


def _build_swin() -> nn.Module:
    """Stages of 16x16, 8x8 and 4x4 tokens, widths 32, 64 and 128, two blocks each, windows of 4x4, every other shifted."""
    model: nn.Module = SwinTransformer(
        **_COMMON,
        patch_size=2,
        embed_dim=32,
        depths=(2, 2, 2),
        num_heads=(2, 4, 8),
        window_size=4,
        drop_path_rate=0.0,
    )
    return model


def _make_vit(model_class: Callable[..., Any]) -> nn.Module:
    """
    Make a ViT whose learned positions, ``(1, N, C)``, start from sines and cosines.

    timm starts them from noise far smaller than the patches, and they would take a third of the training to grow.
    """
    vit = model_class(**_COMMON, patch_size=4, embed_dim=96, depth=5, num_heads=3)
    with torch.no_grad():
        vit.pos_embed[0, vit.num_prefix_tokens :] = build_sincos2d_pos_embed(
            list(vit.patch_embed.grid_size), vit.embed_dim
        )
    model: nn.Module = vit
    return model


STANDINS: dict[str, Callable[[], nn.Module]] = {"vit": _build_vit, "deit": _build_deit, "swin": _build_swin}
