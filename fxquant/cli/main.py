"""The ``fxquant`` command: measure, demonstrate and report quantised Vision Transformers from the shell."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from fxquant.cli.interrupts import ended_by_interrupt
from fxquant.version import __version__

# Command -> what it does. Each is a module of its own beside this one, which is imported once it is asked for: most need torch.
COMMANDS = {
    "eval": "measure a timm or a saved model on an image folder",
    "quantize": "quantise a timm model and save it",
    "train": "train a timm model with its quantisers",
    "make-labels": "store a teacher's labels of random crops of images",
    "pack-labels": "turn published labels of crops into few files",
    "predict": "classify images by a saved model",
    "bench": "time a timm model and its competitors, or a saved model",
    "synthesize": "make calibration images from the model alone",
    "demo": "a small ViT on handwritten digits, in under three minutes",
    "report": "print the report of a saved model",
    "inspect": "write a page on what quantisation makes of a model",
    "recipes": "list the recipes and their options",
}


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole line; the options of `command` alone are known."""
    parser = argparse.ArgumentParser(prog="fxquant", description=__doc__)
    parser.add_argument("--version", action="version", version=f"fxquant {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary)
        if name == command:
            module = import_module(f"fxquant.cli.{name.replace('-', '_')}")
            subparser.description = module.DESCRIPTION
            module.add_arguments(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line `argv` (None: that of the process) and return the exit code.

    0: done. 2: an error of the user's or the data's, one message on stderr. 130: interrupted; no file is half written.
    Under torchrun the processes of a command that shares its work form a group: rank 0 alone prints, all return the same.
    """
    with ended_by_interrupt():
        options = parse(sys.argv[1:] if argv is None else argv)
        from fxquant.cli.execute import execute  # torch takes seconds, which no help text should wait for

    return execute(options)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; under torchrun only the first process says what is wrong with it."""
    quiet = os.environ.get("RANK", "0") != "0"
    with contextlib.redirect_stderr(io.StringIO()) if quiet else contextlib.nullcontext():
        return build_parser(argv[0] if argv else None).parse_args(argv)
