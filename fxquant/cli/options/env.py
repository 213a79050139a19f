"""The options of ``fxquant env``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fxquant.cli.options.shared import add_json

DESCRIPTION = "Print what this machine offers, and which kernels int8 models run on here."
EXAMPLES = ("fxquant env", "fxquant env --libraries served/kernels")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--libraries",
        type=Path,
        metavar="DIR",
        help="write the libraries of the kernels there, for programs without Python",
    )
    add_json(parser.add_argument_group("output"))
