"""Options that several subcommands share."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from fxquant.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def natural(text: str) -> int:
    """Parse a whole number of at least 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected at least 0, got {number}")
    return number


def add_run_options(parser: argparse.ArgumentParser, threads: int | None = None) -> None:
    """Add what every measuring command has: seed, threads (None: as many as torch likes) and the JSON file."""
    parser.add_argument("--seed", type=natural, default=0, help="of every random choice (%(default)s)")
    usual = threads or "torch's default"
    parser.add_argument("--threads", type=positive, default=threads, metavar="N", help=f"CPU threads ({usual})")
    parser.add_argument("--json", type=Path, metavar="F", help="write everything measured to this file")


def start_run(options: argparse.Namespace) -> None:
    """Set threads and seed, and refuse outputs that could not be written once the work is done."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    for file in (options.json, getattr(options, "save", None)):
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise InputError(f"cannot write {str(file)!r}: its folder does not exist, or it is a folder itself")


def resolve_device(name: str) -> torch.device:
    """Return the device `name`; raise `InputError` where this machine or this torch lacks it."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"device {name!r} cannot be used: {reason}") from error
    return device
