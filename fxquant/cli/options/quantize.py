"""The options of ``fxquant quantize``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fxquant.cli.options.quantising import add_execution_options, add_quantising_options
from fxquant.cli.options.shared import add_json

DESCRIPTION = """
Quantise a timm model and save it, with images of an ImageFolder tree, or without any: --calib noise, synthetic or a file of
images needs no --data. fxquant eval with the same options draws the same images and measures the model as well. The file also
holds how images are prepared, and the names of the classes. Several processes share the work under torchrun: torchrun
--nproc-per-node N -m fxquant quantize ... saves the model that one process would. Images that cannot be read are skipped and
named; more than 1 % of them are an error.
"""
EXAMPLES = (
    "fxquant quantize deit_small_patch16_224.fb_in1k --pretrained --data imagenet --out deit_int8.safetensors",
    "fxquant quantize vit_tiny_patch16_224 --checkpoint mine.pth --num-classes 10 --calib synthetic --out int8.safetensors",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_quantising_options(parser, evaluated=False)
    add_execution_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", dest="save", type=Path, required=True, metavar="FILE", help="the quantised model (.safetensors)"
    )
    output.add_argument("--dynamic", action="store_true", help="a graph for images of any height and width")
    add_json(output)
