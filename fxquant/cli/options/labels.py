"""What the commands that write labels share."""

from __future__ import annotations

import argparse
from pathlib import Path

from fxquant.distillation.label_kind import LabelKind, kind_names
from fxquant.errors import ConfigError
from fxquant.measurement.option_values import positive


def label_kind(text: str) -> LabelKind:
    """Parse a kind of labels by name."""
    try:
        return LabelKind(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_labelled_images(group: argparse._ArgumentGroup) -> None:
    """Add the images that the labels are of."""
    group.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="the image folder, whose train/ is taken"
    )


def add_label_kind(group: argparse._ArgumentGroup) -> None:
    """Add how much of an answer is stored."""
    usual = LabelKind.MARGINAL_SMOOTHING_K5
    group.add_argument(
        "--kind",
        type=label_kind,
        default=usual,
        metavar="KIND",
        help=f"one of {', '.join(kind_names())} (default: {usual.value})",
    )


def add_label_files(group: argparse._ArgumentGroup, images_per_shard: int) -> None:
    """Add where the labels go, and in how many files."""
    group.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the labels, which is made")
    group.add_argument(
        "--images-per-shard",
        type=positive,
        default=images_per_shard,
        metavar="N",
        help="images per file: what is lost where a run is interrupted",
    )
