"""How images are prepared for a model, where it is not as the model's own data config says."""

from __future__ import annotations

import argparse

from fxquant.data.data_config import CROP_MODES, INTERPOLATIONS
from fxquant.measurement.option_values import fraction, positive


def add_preprocessing_options(parser: argparse.ArgumentParser) -> None:
    """Add the values of a data config, each of which is the model's own where it is not given."""
    group = parser.add_argument_group("preprocessing", "each is the model's own where it is not given")
    group.add_argument("--img-size", type=positive, metavar="N", help="image height and width")
    group.add_argument("--in-chans", type=positive, metavar="N", help="channels of its images, 1 is grey")
    for name, what in (("--mean", "subtracted from pixels of 0 to 1"), ("--std", "by which they are divided then")):
        group.add_argument(name, type=float, nargs="+", metavar="X", help=f"{what}, of each channel or of all")
    group.add_argument("--interpolation", choices=INTERPOLATIONS, help="by which images are resized")
    group.add_argument("--crop-pct", type=fraction, metavar="X", help="part of the resized image that is kept")
    group.add_argument("--crop-mode", choices=CROP_MODES, help="how an image becomes square")
    group.add_argument(
        "--data-config",
        metavar="JSON",
        help="all of these as JSON or a file of it: config.json of timm and preprocessor_config.json of Hugging Face are read, "
        "too; the options above go before it",
    )
