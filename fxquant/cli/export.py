"""``fxquant export FILE --out F``: a saved model in the format of another runtime."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import fxquant
from fxquant.cli.options.export import FORMATS
from fxquant.cli.output import print_facts
from fxquant.errors import InputError
from fxquant.files import json_report, refuse_unwritable

_WRITERS: dict[str, Callable[..., Any]] = {"onnx": fxquant.export_onnx}


def run(options: argparse.Namespace) -> None:
    """Load the model, write the file and say how large it is."""
    name = options.format or _format_of(options)
    refuse_unwritable(options.out)
    with json_report(options.json) as facts:
        gm = fxquant.load(options.file)
        print_facts({"file": options.file} | gm.card.describe())
        _WRITERS[name](gm, options.out)
        size = os.path.getsize(options.out)
        print(f"wrote {options.out}, {size / 1e6:.2f} MB")
        facts |= {
            "command": "export",
            "file": options.file,
            "out": str(options.out),
            "format": name,
            "size_bytes": size,
        }


def _format_of(options: argparse.Namespace) -> str:
    """Return the format that the suffix of the file stands for."""
    found = [name for name, suffix in FORMATS.items() if options.out.suffix.lower() == suffix]
    if not found:
        raise InputError(
            f"--out: expected a name that ends in {' or '.join(FORMATS.values())}, found {str(options.out)!r}; --format says "
            "what a file of another name is to hold"
        )
    return found[0]
