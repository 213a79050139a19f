"""The ``fxquant`` command: measure, demonstrate and report quantised Vision Transformers from the shell."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import torch

import fxquant
from fxquant.cli import bench, demo, eval, recipes, report, synthesize
from fxquant.errors import FxquantError

COMMANDS = (eval, bench, synthesize, demo, report, recipes)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command; each subcommand adds its own part."""
    parser = argparse.ArgumentParser(prog="fxquant", description=__doc__)
    parser.add_argument("--version", action="version", version=f"fxquant {fxquant.__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line `argv` (None: that of the process) and return the exit code.

    0: done. 2: an error of the user's or the data's, one message on stderr. 130: interrupted; no file is half written.
    """
    options = build_parser().parse_args(argv)
    try:
        options.run(options)
        sys.stdout.flush()
    except FxquantError as error:
        print(f"fxquant: error: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        print(f"fxquant: error: out of memory, try a smaller --batch-size: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fxquant: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away, as `head` does; keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0
