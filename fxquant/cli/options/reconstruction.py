"""``--reconstruct``: whether, how long and how blocks are trained."""

from __future__ import annotations

import argparse

from fxquant.config.iterations import PUBLISHED_ITERATIONS
from fxquant.measurement.option_values import positive, recipe_option


def add_reconstruction_options(group: argparse._ArgumentGroup) -> None:
    """Add whether, how long and how blocks are trained; `resolve_reconstruction` reads it."""
    group.add_argument(
        "--reconstruct",
        type=positive,
        nargs="?",
        const=PUBLISHED_ITERATIONS,
        metavar="N",
        help="train each block for N iterations to give what the float model gives, on the calibration images "
        "(%(const)s without N; default: the recipe's own)",
    )
    group.add_argument(
        "--reconstruction",
        type=recipe_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of --reconstruct, such as batch_size=8, or checkpoint=FILE to go on from; repeatable",
    )
