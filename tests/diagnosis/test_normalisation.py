"""A model that was trained with another normalisation is told from one that was not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fxquant.data import DataConfig, ImageBatches, read_image_tree
from fxquant.diagnosis.normalisation import better_normalisation, spread

IMAGENET = DataConfig((3, 8, 8), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_pct=1.0)
INCEPTION = IMAGENET.changed({"mean": 0.5, "std": 0.5})


class Brightness(nn.Module):
    """Tells images by their mean, which is to be 0.5 before they are normalised."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3))
        return torch.stack((-mean, mean), 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("brightness")
    for name, value in (("dark", 120), ("light", 140)):
        (root / name).mkdir()
        for index in range(20):
            Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(root / name / f"{index}.png")
    return root


def better(folder: Path, config: DataConfig) -> str | None:
    evaluation = ImageBatches(read_image_tree(folder).evaluation, config, 16)
    found = better_normalisation(Brightness(), spread(evaluation), config)
    return None if found is None else str(found)


def test_the_better_one_is_named(folder: Path) -> None:
    assert better(folder, IMAGENET) == (
        "float top-1 is 50.0 % with mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225), and 100.0 % with mean (0.5, 0.5, "
        "0.5) and std (0.5, 0.5, 0.5), on 40 images: if the model was trained so, pass --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5"
    )


def test_nothing_is_said_where_the_config_is_right(folder: Path) -> None:
    assert better(folder, INCEPTION) is None


def test_the_images_own_mean_is_one_of_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxquant.diagnosis.normalisation.USUAL", ())
    assert "pass --mean 0.51 0.51 0.51 --std 0.039" in str(better(folder, IMAGENET.changed({"mean": 0.9})))


def test_only_some_images_are_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxquant.diagnosis.normalisation.IMAGES", 20)
    assert "on 20 images" in str(better(folder, IMAGENET))
