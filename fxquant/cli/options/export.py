"""The options of ``fxquant export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fxquant.cli.options.shared import add_json

# Format -> the suffix of its files, by which it is chosen.
FORMATS = {"onnx": ".onnx"}
DESCRIPTION = """
Write a model that fxquant saved in the format of another runtime, which the suffix of the file decides. ONNX: QuantizeLinear
and DequantizeLinear around float products, for ONNX Runtime, OpenVINO and others. docs/export.md says what it can hold.
"""
EXAMPLES = (
    "fxquant export deit_int8.safetensors --out deit_int8.onnx",
    "fxquant export deit_int8.safetensors --out model.bin --format onnx",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("file", metavar="FILE", help="written by fxquant.save, fxquant quantize or fxquant eval --save")
    output = parser.add_argument_group("output")
    suffixes = ", ".join(FORMATS.values())
    output.add_argument("--out", type=Path, required=True, metavar="FILE", help=f"the file to write ({suffixes})")
    output.add_argument("--format", choices=tuple(FORMATS), help="what to write (default: by the suffix of --out)")
    add_json(output)
