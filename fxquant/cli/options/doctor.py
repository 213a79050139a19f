"""The options of ``fxquant doctor``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fxquant.cli.options.calibration import add_calibration_options
from fxquant.cli.options.shared import (
    add_batch_size,
    add_codes,
    add_device,
    add_dtype,
    add_folder_options,
    add_json,
    add_model_options,
    add_recipe_options,
    add_seed,
    add_workers,
)
from fxquant.measurement.option_values import accuracy, natural, positive

DESCRIPTION = """
Say why a quantised model is not more accurate, or not faster: on one page, how the images are prepared, which parts nobody
looked into, which products stay float, outlier tokens, calibration images that look unlike the evaluation images, what the
time goes to, and the three changes that help most, each of them measured. Where MODEL is a .safetensors file, or there is no
image folder or no labels, the page says which of this is left out and why.
"""
EXAMPLES = (
    "fxquant doctor deit_small_patch16_224.fb_in1k --pretrained --data imagenet --html doctor.html",
    "fxquant doctor deit_small_patch16_224.fb_in1k --pretrained --data imagenet --recipe minmax --w-bits 6 --a-bits 6",
    "fxquant doctor deit_int8.safetensors --data imagenet",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.set_defaults(save=None, target="int8", strict=False, reconstruct=None, reconstruction=[])
    add_model_options(parser)
    images = parser.add_argument_group("images")
    add_folder_options(images, required=False, needed="; without it what needs images is left out")
    images.add_argument(
        "--limit", type=positive, default=256, metavar="N", help="evaluate on N images, drawn at random"
    )
    quantisation = parser.add_argument_group("quantisation")
    add_recipe_options(quantisation)
    add_codes(quantisation)
    add_calibration_options(quantisation)
    execution = parser.add_argument_group("execution")
    add_batch_size(execution)
    add_device(execution)
    add_dtype(execution, "the float model")
    add_workers(execution)
    add_seed(execution)
    measurement = parser.add_argument_group("measurement")
    measurement.add_argument(
        "--expected-top1",
        type=accuracy,
        metavar="X",
        help="top-1 in percent that the model is known to reach (default: what timm publishes, of usual models on ImageNet)",
    )
    measurement.add_argument(
        "--changes",
        type=natural,
        default=10,
        metavar="N",
        help="changes to try, each calibrated and measured, 0 for none",
    )
    measurement.add_argument("--no-time", action="store_true", help="measure no times")
    output = parser.add_argument_group("output")
    output.add_argument("--html", type=Path, metavar="FILE", help="write the page to this file as well")
    add_json(output)
