"""``fxquant report FILE``: what of a saved model runs on int8, what does not, and why."""

from __future__ import annotations

import argparse
from typing import Any

import fxquant


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "report", help="print the report of a saved model", description="Print the report of a saved quantised model."
    )
    parser.add_argument("file", metavar="FILE", help="written by fxquant.save or fxquant eval --save")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load the file and print its report."""
    print(fxquant.report(fxquant.load(options.file)))
