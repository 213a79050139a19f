"""The options of ``fxquant eval``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fxquant.cli.options.quantising import add_execution_options, add_quantising_options
from fxquant.cli.options.shared import add_json
from fxquant.measurement.option_values import positive

DESCRIPTION = """
Measure a timm model on an ImageFolder tree, as it is and quantised; or a saved quantised model, where MODEL is a .safetensors
file of fxquant quantize, with the preprocessing that it holds. DIR holds train/ and val/ (or validation/, test/), from
which calibration and evaluation images are drawn, or class folders alone, from which both are, without overlap. Images are
loaded as timm does for validation, by the model's own data config. Several processes share the work under torchrun:
torchrun --nproc-per-node N -m fxquant eval ... gives the numbers of one process. Images that cannot be read are skipped and
named; more than 1 % of them are an error.
"""
EXAMPLES = (
    "fxquant eval deit_small_patch16_224.fb_in1k --pretrained --data imagenet",
    "fxquant eval deit_small_patch16_224.fb_in1k --pretrained --data imagenet --recipe ptq4vit --w-bits 6 --a-bits 6",
    "fxquant eval deit_int8.safetensors --data imagenet --limit 1000 --json -",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    images = add_quantising_options(parser, evaluated=True)
    images.add_argument(
        "--limit", type=positive, metavar="N", help="evaluate on N images, drawn at random (default: all)"
    )
    add_execution_options(parser)
    measurement = parser.add_argument_group("measurement")
    measurement.add_argument("--compile", action="store_true", help="evaluate the quantised model under torch.compile")
    output = parser.add_argument_group("output")
    output.add_argument("--save", type=Path, metavar="FILE", help="save the quantised model (.safetensors)")
    add_json(output)
