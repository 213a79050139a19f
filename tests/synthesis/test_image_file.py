"""Sets of images in files: what was written is read, and other files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fxquant.errors import InputError
from fxquant.synthesis import gaussian_images, load_images, save_images, save_sheet


def test_images_and_metadata_come_back(tmp_path: Path) -> None:
    images, file = gaussian_images(3, (8, 12)), tmp_path / "a.safetensors"
    save_images(file, images.flip(0), {"seed": 3, "losses": [0.5]})
    found, metadata = load_images(file)
    assert torch.equal(found, images.flip(0))
    assert metadata == {"seed": 3, "losses": [0.5]}
    save_images(file, images.bfloat16())  # over the old one
    assert load_images(file)[0].dtype is torch.float32
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match="does not exist"):
        load_images(file)
    with pytest.raises(InputError, match="is no file"):
        load_images(tmp_path)
    file.write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="cannot read"):
        load_images(file)
    save_file({"images": torch.zeros(1, 3, 2, 2)}, file)
    with pytest.raises(InputError, match="none of the kind expected here"):
        load_images(file)
    save_file({"images": torch.zeros(1, 2, 2)}, file, {"fxquant_images": "{}"})
    with pytest.raises(InputError, match=r"expected images \(n, C, H, W\)"):
        load_images(file)
    save_file({"other": torch.zeros(1, 3, 2, 2)}, file, {"fxquant_images": "{}"})
    with pytest.raises(InputError, match="found other"):
        load_images(file)
    save_file({"images": torch.full((1, 3, 2, 2), torch.nan)}, file, {"fxquant_images": "{}"})
    with pytest.raises(InputError, match="NaN or infinity"):
        load_images(file)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        save_images(tmp_path / "none" / "a.safetensors", gaussian_images(1, 4))
    with pytest.raises(InputError, match="cannot write"):
        save_sheet(tmp_path / "none" / "a.png", gaussian_images(1, 4))
    with pytest.raises(InputError, match="expected images"):
        save_images(tmp_path / "a.safetensors", torch.zeros(3, 4, 4))


def test_a_sheet_shows_every_image_with_its_colours(tmp_path: Path) -> None:
    mean, std = (0.5, 0.25, 0.0), (0.5, 0.25, 1.0)
    colours = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 1.0]])
    shift, scale = torch.tensor(mean), torch.tensor(std)
    images = ((colours - shift) / scale)[:, :, None, None].expand(3, 3, 4, 4)
    save_sheet(tmp_path / "a.png", images, mean, std)
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    assert pixels.shape == (2 * 6 + 2, 2 * 6 + 2, 3)
    assert pixels[3, 3].tolist() == [255, 0, 0]
    assert pixels[3, 9].tolist() == [0, 128, 0]
    assert pixels[9, 3].tolist() == [0, 0, 255]
    assert pixels[0, 0].tolist() == [255, 255, 255]


def test_images_of_torch_save(tmp_path: Path) -> None:
    file, images = tmp_path / "images.pt", torch.randn(2, 1, 4, 4, dtype=torch.float64)
    torch.save(images, file)
    found, facts = load_images(file)
    assert torch.equal(found, images.float())
    assert facts == {}
    torch.save({"images": images}, file)
    with pytest.raises(InputError, match=r"expected one tensor of images .* found a dict"):
        load_images(file)
    torch.save(images[0], file)
    with pytest.raises(InputError, match="expected images"):
        load_images(file)
    file.write_bytes(b"none")
    with pytest.raises(InputError, match="cannot read"):
        load_images(file)
