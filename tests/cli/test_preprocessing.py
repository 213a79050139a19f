"""Every command that reads images takes a preprocessing of its own, which the model is built for."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import timm

from fxquant import ConfigError, DataConfig
from fxquant.cli.options.preprocessing import add_preprocessing_options
from fxquant.cli.preprocessing import chosen_data_config, given_sizes
from fxquant.models.timm_model import TimmModel
from tests.support.documents import known_options

FLAGS = {"--img-size", "--in-chans", "--mean", "--std", "--interpolation", "--crop-pct", "--crop-mode", "--data-config"}


@pytest.mark.parametrize("command", ["eval", "quantize", "bench", "synthesize", "train", "make-labels", "predict"])
def test_every_command_takes_it(command: str) -> None:
    assert known_options(command) >= FLAGS


def given(*arguments: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_preprocessing_options(parser)
    return parser.parse_args(list(map(str, arguments)))


@pytest.fixture(scope="module")
def source() -> TimmModel:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    return TimmModel(model, "vit", "random", {})


def test_options_go_before_the_file(source: TimmModel, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [0.4], "crop_pct": 0.5}))
    options = given("--data-config", file, "--mean", -0.5, "--crop-mode", "squash", "--interpolation", "lanczos")
    wanted = DataConfig((3, 32, 32), (-0.5,) * 3, (0.4,) * 3, "lanczos", 0.5, "squash")
    assert chosen_data_config(options, source) == wanted
    assert given_sizes(options) == {"img_size": 32, "in_chans": 3}


def test_what_is_not_given_is_the_models_own(source: TimmModel) -> None:
    own = chosen_data_config(given(), source)
    assert own == DataConfig((3, 224, 224), (0.5,) * 3, (0.5,) * 3, "bicubic", 0.9)
    assert chosen_data_config(given("--img-size", 32), source) == own.changed({"img_size": 32})
    assert given_sizes(given()) == {"img_size": None, "in_chans": None}


def test_models_are_built_for_square_images() -> None:
    with pytest.raises(ConfigError, match="models are built for square images"):
        given_sizes(given("--data-config", '{"input_size": [3, 32, 64]}'))


@pytest.mark.parametrize(
    "arguments", [["--crop-pct", "0"], ["--crop-pct", "1.5"], ["--interpolation", "cubic"], ["--std"]]
)
def test_the_parser_refuses(arguments: list[Any]) -> None:
    with pytest.raises(SystemExit):
        given(*arguments)
