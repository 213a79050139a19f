"""``fxquant report FILE``: what of a saved model runs on int8, what does not, and why."""

from __future__ import annotations

import argparse

import fxquant

DESCRIPTION = "Print the report of a saved quantised model."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("file", metavar="FILE", help="written by fxquant.save or fxquant eval --save")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load the file and print its report."""
    print(fxquant.report(fxquant.load(options.file)))
