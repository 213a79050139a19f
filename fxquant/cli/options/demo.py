"""The options of ``fxquant demo``."""

from __future__ import annotations

import argparse

from fxquant.cli.options.shared import add_json, add_recipe, add_seed
from fxquant.measurement.option_values import positive

THREADS = 1  # so small a model gains little from more, and one is what other work on the machine disturbs least
DESCRIPTION = "Quantise the packaged digits model to 8, 6 and 4 bits: accuracy, agreement, speed, size, coverage."
EXAMPLES = ("fxquant demo", "fxquant demo --recipe minmax --no-compile")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_recipe(parser.add_argument_group("quantisation"))
    add_seed(parser.add_argument_group("execution"), threads=THREADS)
    group = parser.add_argument_group("measurement")
    group.add_argument("--batch-size", type=positive, default=32, metavar="N", help="images per timed call")
    group.add_argument("--rounds", type=positive, default=11, metavar="N", help="rounds of timing")
    group.add_argument("--no-compile", action="store_true", help="skip the torch.compile column")
    add_json(parser.add_argument_group("output"))
