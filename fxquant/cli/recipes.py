"""``fxquant recipes``: the names that ``--recipe`` takes."""

from __future__ import annotations

import argparse
from typing import Any

import fxquant


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "recipes", help="list the recipes", description="List the names that --recipe takes."
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print one name per line."""
    print("\n".join(fxquant.recipes()))
