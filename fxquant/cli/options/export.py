"""The options of ``fxquant export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fxquant.cli.options.shared import add_json

# Suffix of a file -> the format that it stands for; one without a suffix is asked for by its name.
SUFFIXES = {".onnx": "onnx", ".pt2": "aoti"}
FORMATS = (*SUFFIXES.values(), "pt2e")
ACTIVATIONS = ("int8", "uint8")
DESCRIPTION = """
Write a model that fxquant saved in the format of another runtime, which the suffix of the file decides. ONNX: QuantizeLinear
and DequantizeLinear around float products, for ONNX Runtime, OpenVINO and others; docs/export.md says what it can hold. A .pt2
file: the model compiled ahead of time by AOTInductor, which runs without Python; with --format pt2e a program of torch.export
with the quantisers of PT2E, for ExecuTorch, torchao and others: docs/export-torch.md.
"""
EXAMPLES = (
    "fxquant export deit_int8.safetensors --out deit_int8.onnx",
    "fxquant export deit_int8.safetensors --out deit_int8.pt2",
    "fxquant export deit_int8.safetensors --out deit_pt2e.pt2 --format pt2e --activations uint8",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("file", metavar="FILE", help="written by fxquant.save, fxquant quantize or fxquant eval --save")
    output = parser.add_argument_group("output")
    suffixes = ", ".join(SUFFIXES)
    output.add_argument("--out", type=Path, required=True, metavar="FILE", help=f"the file to write ({suffixes})")
    output.add_argument("--format", choices=FORMATS, help="what to write (default: by the suffix of --out)")
    output.add_argument("--batch", type=int, metavar="N", help="the one batch size of aoti and pt2e (default: any)")
    output.add_argument(
        "--activations", choices=ACTIVATIONS, help="dtype of the codes of values in pt2e (default: int8)"
    )
    add_json(output)
