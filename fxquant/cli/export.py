"""``fxquant export FILE --out F``: a saved model in the format of another runtime."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

import torch
from torch import fx

import fxquant
from fxquant.cli.options.export import SUFFIXES
from fxquant.cli.output import print_facts
from fxquant.errors import InputError
from fxquant.files import json_report, refuse_unwritable, write_atomically


def run(options: argparse.Namespace) -> None:
    """Load the model, write the file and say how large it is."""
    name = options.format or _format_of(options)
    _refuse_idle(name, options)
    refuse_unwritable(options.out)
    with json_report(options.json) as facts:
        gm = fxquant.load(options.file)
        print_facts({"file": options.file} | gm.card.describe())
        _WRITERS[name](gm, options)
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
    found = SUFFIXES.get(options.out.suffix.lower())
    if found is None:
        raise InputError(
            f"--out: expected a name that ends in {' or '.join(SUFFIXES)}, found {str(options.out)!r}; --format says "
            "what a file of another name is to hold"
        )
    return found


def _refuse_idle(name: str, options: argparse.Namespace) -> None:
    """Raise where an option is given that the format does not have."""
    for option, formats in (("batch", ("aoti", "pt2e")), ("activations", ("pt2e",))):
        if getattr(options, option) is not None and name not in formats:
            raise InputError(f"--{option} is for --format {' and '.join(formats)}, found {name}: leave it out")


def _write_onnx(gm: fx.GraphModule, options: argparse.Namespace) -> None:
    fxquant.export_onnx(gm, options.out)


def _write_aoti(gm: fx.GraphModule, options: argparse.Namespace) -> None:
    fxquant.export_aoti(gm, options.out, options.batch)


def _write_pt2e(gm: fx.GraphModule, options: argparse.Namespace) -> None:
    program = fxquant.export_pt2e(gm, getattr(torch, options.activations or "int8"), options.batch)
    write_atomically(options.out, lambda name: torch.export.save(program, name))


_WRITERS: dict[str, Callable[[fx.GraphModule, argparse.Namespace], None]] = {
    "onnx": _write_onnx,
    "aoti": _write_aoti,
    "pt2e": _write_pt2e,
}
