"""What a noise gains: a squared error that is smaller on the images it was fitted on."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer

import fxquant
from bench import noise_gain


def test_the_noise_gains_on_the_images_it_was_fitted_on() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=32, patch_size=8, in_chans=1, num_classes=62, embed_dim=32, depth=2, num_heads=2
    ).eval()
    config = fxquant.recipe("noisyquant", 4, 4, metric="l2", inputs_from="float")
    images = torch.randn(24, 1, 32, 32)
    rows = list(noise_gain.measure(model, config, images[:16], images[16:], {"model": "tiny"}))
    assert [row["layer"] for row in rows][-2:] == ["blocks.1.mlp.fc2", "head"]
    assert len(rows) == 9
    assert {row["input"] for row in rows} == {"norm", "activation", "gelu"}
    assert all(0 < row["fitted_on"] <= 1 and row["others"] > 0 and row["model"] == "tiny" for row in rows)
    assert min(row["fitted_on"] for row in rows) < 0.98
