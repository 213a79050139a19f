"""The options of ``fxquant predict``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fxquant.cli.options.preprocessing import add_preprocessing_options
from fxquant.cli.options.shared import add_batch_size, add_device, add_json
from fxquant.measurement.option_values import positive, thread_count

DESCRIPTION = """
Classify image files by a model that fxquant saved, with the preprocessing and the class names that its file holds. The result
goes to the standard output as JSON: the likeliest classes of each image with their probabilities.
"""
EXAMPLES = (
    "fxquant predict deit_int8.safetensors cat.jpg dog.jpg",
    "fxquant predict deit_int8.safetensors cat.jpg --top-k 1 --json cat.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "model", metavar="FILE", help="written by fxquant.save, fxquant quantize or fxquant eval --save"
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image file")
    add_preprocessing_options(parser)
    group = parser.add_argument_group("execution")
    add_batch_size(group)
    add_device(group)
    group.add_argument("--threads", type=thread_count, metavar="N", help="CPU threads (default: torch's own)")
    output = parser.add_argument_group("output")
    output.add_argument("--top-k", type=positive, default=5, metavar="N", help="classes of each image")
    add_json(output, usual="-")
    parser.set_defaults(seed=0)
