"""The options of ``fxquant recipes``."""

from __future__ import annotations

import argparse

from fxquant.cli.options.shared import add_json

DESCRIPTION = "List the names that --recipe takes, each with its options and their defaults for --option."
EXAMPLES = ("fxquant recipes", "fxquant recipes --json -")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_json(parser.add_argument_group("output"))
