"""The ViT out of the ONNX file: whole, at any size, refused where it cannot be had."""

from __future__ import annotations

import pytest
import torch

from bench.real import weights
from bench.real.weights import load_backbone, onnx_file, read_tensors
from fxquant.errors import CheckpointError, InputError
from tests.bench.real.needs import needs_real


@pytest.mark.long
@needs_real
def test_positions_are_resampled_to_the_images() -> None:
    small, whole = load_backbone(112), load_backbone(518)
    assert small.pos_embed.shape == (1, 1 + 8 * 8, 384)
    assert whole.pos_embed.shape == (1, 1 + 37 * 37, 384)
    assert torch.equal(small.pos_embed[:, :1], whole.pos_embed[:, :1])
    with torch.no_grad():
        assert small(torch.zeros(2, 3, 112, 112)).shape == (2, 384)


@pytest.mark.long
@needs_real
def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {name: tensor for name, tensor in read_tensors().items() if "layer.3.mlp.fc1" not in name}
    monkeypatch.setattr(weights, "read_tensors", lambda: tensors)
    with pytest.raises(CheckpointError, match=r"layer\.3\.mlp\.fc1"):
        load_backbone(112)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"fxquant\[real\]"):
        onnx_file()


@pytest.mark.parametrize("px", [0, 100, -14])
def test_images_of_no_whole_patches_are_refused(px: int) -> None:
    with pytest.raises(InputError, match=f"multiple of the patch size 14, found px={px}"):
        load_backbone(px)
