"""The ``fxquant`` command: measure, demonstrate and report quantised Vision Transformers from the shell."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Collection, Sequence
from importlib import import_module

from fxquant.cli.execute import execute
from fxquant.cli.help_style import HelpFormatter, style
from fxquant.cli.interrupts import ended_by_interrupt
from fxquant.version import __version__

# Command -> what it does. Its options are a module of `options`, what it does is one beside this, which needs torch.
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
    "export": "write a saved model in the format of another runtime",
    "report": "print the report of a saved model",
    "inspect": "write a page on what quantisation makes of a model",
    "doctor": "say why a model is not more accurate, or not faster",
    "recipes": "list the recipes and their options",
    "env": "print what this machine offers and which kernels run",
    "completion": "print a script by which a shell completes fxquant",
}
_EPILOG = """examples:
  fxquant demo
  fxquant quantize --help
  fxquant quantize deit_small_patch16_224.fb_in1k --pretrained --data imagenet --out deit_int8.safetensors

exit codes: 0 done, 1 an error that nobody foresaw, 2 an error of the call, the data or the
machine, 130 interrupted, 141 the reader of the standard output went away"""


def build_parser(known: Collection[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """Return the parser of the whole line; the options of the `known` commands alone are in it."""
    parser = argparse.ArgumentParser(
        prog="fxquant",
        usage="fxquant COMMAND [OPTION...]",
        description="Quantise Vision Transformers, measure them, and say what of them runs on int8.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fxquant {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", prog="fxquant")
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary)
        subparser.set_defaults(command=name)
        if name in known:
            subparser.add_argument("--debug", action="store_true", help="show where an error happened")
            module = import_module(f"fxquant.cli.options.{name.replace('-', '_')}")
            module.add_arguments(subparser)
            style(subparser, module.DESCRIPTION, module.EXAMPLES)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line `argv` (None: that of the process) and return the `ExitCode`.

    Wrong usage raises `SystemExit` with 2, and help and the version with 0, as argparse does. Where a command is interrupted,
    no file is half written. Under torchrun the processes of a command that shares its work form a group: rank 0 alone prints,
    all return the same.
    """
    with ended_by_interrupt():
        options = parse(sys.argv[1:] if argv is None else argv)
    return execute(options)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; under torchrun only the first process says what is wrong with it."""
    quiet = os.environ.get("RANK", "0") != "0"
    with contextlib.redirect_stderr(io.StringIO()) if quiet else contextlib.nullcontext():
        return build_parser(argv[:1]).parse_args(argv)
