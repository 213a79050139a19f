"""The options of ``fxquant report``."""

from __future__ import annotations

import argparse

from fxquant.cli.options.shared import add_json

DESCRIPTION = "Print what a saved quantised model says of itself, the size of its file, and what of it runs on int8."
EXAMPLES = ("fxquant report deit_int8.safetensors", "fxquant report deit_int8.safetensors --json -")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("file", metavar="FILE", help="written by fxquant.save, fxquant quantize or fxquant eval --save")
    add_json(parser.add_argument_group("output"))
