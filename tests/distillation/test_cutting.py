"""Crops are cut as recorded: rounded boxes, then the size, then the flip."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from fxquant.data.pixels import open_image
from fxquant.distillation.crops import IMAGENET_MEAN, IMAGENET_STD
from fxquant.distillation.cutting import check_interpolation, cut_crops, normalise
from fxquant.errors import ConfigError, InputError
from tests.support.soft_labels import RECORDED


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_are_as_recorded(interpolation: str) -> None:
    image = Image.fromarray(RECORDED["crop/image"].numpy())
    size = int(RECORDED["crop/size"])
    pixels = cut_crops(image, RECORDED["crop/coords"], RECORDED["crop/flip"].bool(), size, interpolation)
    crops = normalise(pixels, IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(crops, RECORDED[f"crop/{interpolation}/out"], rtol=0, atol=1e-5)


def test_a_crop_smaller_than_a_pixel_is_one_pixel() -> None:
    image = Image.linear_gradient("L").resize((8, 8)).convert("RGB")
    pixels = cut_crops(image, torch.tensor([[0.5, 0.5, 0.01, 0.01]]), torch.tensor([False]), 4, "bilinear")
    assert pixels.shape == (1, 3, 4, 4)
    assert pixels.unique().tolist() == [image.getpixel((4, 4))[0]]  # type: ignore[index]


def test_what_cannot_be_cut_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"no image")
    with pytest.raises(InputError, match=rf"cannot read the image '{file}'"):
        open_image(file)
    with pytest.raises(ConfigError, match=r"interpolation must be one of nearest, .*, got 'random'"):
        check_interpolation("random")
