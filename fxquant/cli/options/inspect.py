"""The options of ``fxquant inspect``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fxquant.cli.options.quantising import add_quantising_options
from fxquant.cli.options.shared import add_batch_size, add_device, add_dtype, add_json, add_seed, add_workers
from fxquant.measurement.option_values import natural

DESCRIPTION = """
Quantise a timm model, and write one HTML file that shows it float, prepared and quantised side by side: what runs on int8 and
why not, how far each node is from the float model, how its operands are distributed. The file needs no network. Where MODEL is
a .safetensors file, the quantised model in it is shown alone.
"""
EXAMPLES = (
    "fxquant inspect deit_small_patch16_224.fb_in1k --pretrained --data imagenet --html deit.html --time --passes",
    "fxquant inspect deit_int8.safetensors --html deit_int8.html",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.set_defaults(save=None)
    add_quantising_options(parser, evaluated=False)
    execution = parser.add_argument_group("execution")
    add_batch_size(execution)
    add_device(execution)
    add_dtype(execution, "the float model")
    add_workers(execution)
    add_seed(execution)
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--images", type=natural, default=8, metavar="N", help="calibration images to measure on, 0 for none"
    )
    group.add_argument("--shares", action="store_true", help="measure what part of the final error each node makes")
    group.add_argument("--time", action="store_true", help="measure how long each node takes")
    group.add_argument("--passes", action="store_true", help="show what each pass changed")
    output = parser.add_argument_group("output")
    output.add_argument("--html", type=Path, required=True, metavar="FILE", help="the page")
    add_json(output)
