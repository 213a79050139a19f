"""The ``fxquant`` command: measure, demonstrate and report quantised Vision Transformers from the shell."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence

import torch

import fxquant
from fxquant.cli import bench, demo, eval, make_labels, pack_labels, quantize, recipes, report, synthesize, train
from fxquant.cli.shared_options import resolve_device
from fxquant.distributed import gather_objects, initialise, is_repeated, launched, quiet_others, together
from fxquant.errors import FxquantError, InputError

INTERRUPTED = 130
COMMANDS = (eval, quantize, train, make_labels, pack_labels, bench, synthesize, demo, report, recipes)


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
    Under torchrun the processes of a command that shares its work form a group: rank 0 alone prints, all return the same.
    """
    options = _parse(argv)
    if not (launched() and getattr(options, "shares", False)):
        return _run(options)
    with initialise(_group_device(options.device)):
        with quiet_others():
            code = _run(options)
        if code != INTERRUPTED:
            gather_objects(code)  # torchrun stops all as soon as one has failed: let the message come first
    return code


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; under torchrun only the first process says what is wrong with it."""
    quiet = launched() and os.environ["RANK"] != "0"
    with contextlib.redirect_stderr(io.StringIO()) if quiet else contextlib.nullcontext():
        return build_parser().parse_args(argv)


def _group_device(name: str) -> torch.device:
    """Return the device of this process, or the CPU where the command itself is going to refuse it."""
    try:
        return resolve_device(name)
    except InputError:
        return torch.device("cpu")


def _run(options: argparse.Namespace) -> int:
    try:
        together(lambda: options.run(options))
        sys.stdout.flush()
    except FxquantError as error:
        if not is_repeated(error):
            print(f"fxquant: error: {error}", file=sys.stderr, flush=True)
        return 2
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        print(f"fxquant: error: out of memory, try a smaller --batch-size: {reason}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("fxquant: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe went away, as `head` does; keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0
