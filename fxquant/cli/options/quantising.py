"""The options of `eval` and `quantize`: what is quantised, with which images, and how."""

from __future__ import annotations

import argparse

from fxquant.cli.options.calibration import add_calibration_options
from fxquant.cli.options.reconstruction import add_reconstruction_options
from fxquant.cli.options.shared import (
    add_batch_size,
    add_codes,
    add_device,
    add_dtype,
    add_folder_options,
    add_model_options,
    add_recipe_options,
    add_seed,
    add_workers,
)


def add_quantising_options(parser: argparse.ArgumentParser, evaluated: bool) -> argparse._ArgumentGroup:
    """
    Add the model, the image folder, which is needed where a model is `evaluated`, and how the model is quantised.

    Returns the group of the images.
    """
    add_model_options(parser)
    images = parser.add_argument_group("images")
    add_folder_options(images, evaluated, "" if evaluated else "; needed where --calib draws from it")
    group = parser.add_argument_group("quantisation")
    add_recipe_options(group)
    add_codes(group)
    add_calibration_options(group)
    add_reconstruction_options(group)
    group.add_argument("--target", choices=("int8", "fake"), default="int8", help="integer products or simulation")
    group.add_argument("--strict", action="store_true", help="fail where anything asked for stays float")
    return images


def add_execution_options(parser: argparse.ArgumentParser) -> None:
    """Add where and how images and model meet."""
    group = parser.add_argument_group("execution")
    add_batch_size(group)
    add_device(group, shared=True)
    add_dtype(group, "the float model")
    add_workers(group)
    add_seed(group)
