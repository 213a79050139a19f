"""What a noise gains and costs, as the benchmarks see it."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import fx

import fxquant
from bench import noise, noise_gain
from fxquant.ops import quantize


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


@pytest.mark.parametrize("form", noise.FORMS)
def test_the_forms_differ_by_the_noise_alone(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[fx.GraphModule] = []
    convert = fxquant.convert

    def kept(prepared: fx.GraphModule) -> fx.GraphModule:
        built.append(convert(prepared))
        return built[-1]

    monkeypatch.setattr(fxquant, "convert", kept)
    assert noise.build("test_vit", 1, noise.FORMS[form], compiled=False)().shape[0] == 1
    noisy = [n for n in built[0].graph.nodes if n.target is quantize and len(n.args) > 6]
    assert bool(noisy) == (form == "with noise")
