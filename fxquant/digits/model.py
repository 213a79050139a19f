"""The demo's Vision Transformer: how it is built, where its weights are, how well it reads."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fxquant.digits.images import CLASSES, IMAGE_SIZE, Digits
from fxquant.errors import CheckpointError, InputError

WEIGHTS_FILE = Path(__file__).with_name("vit_digits.safetensors")


def build_digits_vit() -> nn.Module:
    """
    Build the untrained model, ``(B, 1, 32, 32) -> (B, 10)`` logits, in train mode.

    It is timm's pre-norm `VisionTransformer` with GELU: 5 blocks, width 96, 3 heads of 32, 64 patches
    of 4x4 and a class token (N = 65), 568,330 parameters. Global random state decides its weights.
    """
    model: nn.Module = VisionTransformer(
        img_size=IMAGE_SIZE,
        patch_size=4,
        in_chans=1,
        num_classes=CLASSES,
        embed_dim=96,
        depth=5,
        num_heads=3,
    )
    return model


def load_digits_vit(file: Path = WEIGHTS_FILE) -> nn.Module:
    """
    Load the trained float32 model in eval mode, on the CPU; scikit-learn is not needed.

    Parameters
    ----------
    file
        Weights written by ``python -m fxquant.digits.train_digits``; the packaged ones if not given.

    Returns
    -------
    nn.Module
        Maps normalised images ``(B, 1, 32, 32)`` to logits ``(B, 10)``.

    Raises
    ------
    CheckpointError
        If the file cannot be read, or holds other weights than this model's.
    """
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot read the weights {file}: {error}; write them with fxquant.digits.train_digits"
        ) from error
    with torch.random.fork_rng(devices=[]):
        model = build_digits_vit()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{file} does not hold the weights of the digits model: {error}") from error
    return model.eval()


@torch.inference_mode()
def measure_top1(model: nn.Module, digits: Digits, batch_size: int = 100) -> float:
    """
    Measure the share of images, in percent, whose largest logit is the right class.

    The model runs as it is: call ``model.eval()`` first if it has dropout.

    Raises
    ------
    InputError
        If there are no images, or the batch size is not positive.
    """
    if len(digits) == 0 or batch_size < 1:
        raise InputError(f"expected images and a positive batch size, found {len(digits)} and {batch_size}")
    correct = sum(_count_correct(model(images), labels) for images, labels in digits.batches(batch_size))
    return 100.0 * correct / len(digits)


def _count_correct(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(dim=-1) == labels).sum())
