"""``fxquant report FILE``: what of a saved model runs on int8, what does not, and why."""

from __future__ import annotations

import argparse
import os

import fxquant
from fxquant.cli.output import print_facts

DESCRIPTION = "Print what a saved quantised model says of itself, the size of its file, and what of it runs on int8."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("file", metavar="FILE", help="written by fxquant.save or fxquant eval --save")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load the file and print its report."""
    gm = fxquant.load(options.file)
    print_facts({"file": f"{options.file}, {os.path.getsize(options.file) / 1e6:.2f} MB"} | gm.card.describe())
    print(f"\n{fxquant.report(gm)}")
