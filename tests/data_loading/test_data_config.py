"""Data configs: what cannot be meant is refused, and files of other libraries say the same as their libraries do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fxquant.data import DataConfig, read_images
from fxquant.data.data_config_file import read_data_config
from fxquant.errors import ConfigError, InputError

BASE = DataConfig((3, 224, 224), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mean": (0.5, 0.5)}, "mean needs a number for each of 3 channels, got 2"),
        ({"std": (0.5, 0.5, 0.0)}, "std must be positive"),
        ({"std": (0.5, 0.5, -1.0)}, "std must be positive"),
        ({"mean": (0.5, 0.5, float("nan"))}, "finite"),
        ({"mean": "0.5"}, "tuple of finite numbers"),
        ({"interpolation": "cubic"}, "unknown interpolation 'cubic'"),
        ({"crop_mode": "centre"}, "unknown crop_mode"),
        ({"crop_pct": 0}, "crop_pct must be a fraction"),
        ({"crop_pct": 87.5}, "crop_pct must be a fraction"),
        ({"input_size": (3, 224)}, "input_size must be"),
        ({"input_size": (3, 0, 224)}, "input_size must be"),
        ({"img_size": 70000}, "input_size must be"),
        ({"img_size": 60000}, "at most 67108864 values"),
        ({"size": 224}, "has no 'size'"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BASE.changed(values)


def test_one_number_is_that_of_all_channels() -> None:
    changed = BASE.changed({"mean": [0.5], "std": 0.25, "img_size": 32, "in_chans": 2})
    assert changed == DataConfig((2, 32, 32), (0.5, 0.5), (0.25, 0.25))
    assert BASE.changed({"in_chans": 1}).mean == pytest.approx((0.4,))


def test_images_are_read_as_the_config_says(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8, 3), 51, np.uint8)).save(tmp_path / "a.png")
    images = read_images([tmp_path / "a.png"] * 2, BASE.changed({"img_size": 4}))
    assert images.shape == (2, 3, 4, 4)
    wanted = torch.tensor([(0.2 - 0.5) / 0.2, (0.2 - 0.4) / 0.3, (0.2 - 0.3) / 0.4])
    torch.testing.assert_close(images[0, :, 2, 2], wanted)


SQUASH = {"size": {"height": 224, "width": 224}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
CLIP = SQUASH | {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (SQUASH, {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bicubic", "mean": (0.5,) * 3}),
        (CLIP, {"crop_pct": 0.875, "crop_mode": "center", "std": (0.25,) * 3}),
        (
            SQUASH | {"do_normalize": False, "resample": 2},
            {"mean": (0.0,) * 3, "std": (1.0,) * 3, "interpolation": "bilinear"},
        ),
        (SQUASH | {"size": {"shortest_edge": 224}, "crop_pct": 0.9}, {"crop_pct": 0.9, "input_size": (3, 224, 224)}),
        (
            {"architecture": "vit", "pretrained_cfg": {"mean": [0.1] * 3, "crop_pct": 0.9, "url": ""}},
            {"mean": (0.1,) * 3},
        ),
        ({"img_size": 64, "crop_pct": 1.0}, {"input_size": (3, 64, 64), "crop_pct": 1.0, "mean": BASE.mean}),
    ],
)
def test_files_of_other_libraries(found: dict[str, Any], wanted: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(found))
    config = BASE.changed(read_data_config(str(file)))
    assert config == BASE.changed(read_data_config(json.dumps(found)))
    assert {name: getattr(config, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.json", "cannot read 'nowhere.json'"),
        ("{", "is no JSON"),
        (json.dumps(SQUASH | {"rescale_factor": 1 / 127.5}), "divided by 255"),
        (json.dumps(SQUASH | {"size": {"shortest_edge": 224}}), "not cropped"),
        (
            json.dumps(SQUASH | {"image_processor_type": "LevitImageProcessor"}),
            "a LevitImageProcessor prepares images by",
        ),
        (json.dumps(SQUASH | {"resample": 9}), "expected resample to be"),
        (json.dumps(SQUASH | {"do_resize": False}), "do_resize false"),
    ],
)
def test_files_that_no_config_describes(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_data_config(text)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ViTImageProcessor", {}),
        ("DeiTImageProcessor", {}),
        ("CLIPImageProcessor", {}),
        ("SiglipImageProcessor", {}),
        ("BitImageProcessor", {"size": {"shortest_edge": 256}}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    ],
)
def test_images_are_those_of_the_processor(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pixels = np.random.RandomState(0).randint(0, 255, (30, 40, 3)).astype(np.uint8)
    image = Image.fromarray(pixels).resize((503, 377), Image.Resampling.BICUBIC)
    image.save(tmp_path / "a.png")
    processor = getattr(transformers, name)(**options)
    wanted = processor(images=image, return_tensors="pt")["pixel_values"]
    found = read_images([tmp_path / "a.png"], BASE.changed(read_data_config(processor.to_json_string())))
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().mean()) < 1e-3
