"""The options of ``fxquant make-labels``."""

from __future__ import annotations

import argparse

from fxquant.cli.options.labels import add_label_files, add_label_kind, add_labelled_images
from fxquant.cli.options.shared import (
    add_batch_size,
    add_device,
    add_dtype,
    add_json,
    add_model_options,
    add_seed,
    add_workers,
)
from fxquant.measurement.option_values import positive

_LOW, _HIGH = 0.08, 0.936

DESCRIPTION = """
Store what a teacher, any timm model, says of random crops of every training image, so that a student can be trained by
distillation (FKD) without running the teacher again. The labels go to a folder of .safetensors files and an index. An
interrupted run goes on where it was when the same command is given again. Processes that torchrun starts share out the files.
An image that cannot be read is an error.
"""
EXAMPLES = ("fxquant make-labels vit_large_patch16_224 --pretrained --data imagenet --out labels",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_model_options(parser)
    add_labelled_images(parser.add_argument_group("images"))
    group = parser.add_argument_group("labels")
    add_label_kind(group)
    group.add_argument("--crops", type=positive, default=500, metavar="N", help="crops of each image")
    group.add_argument(
        "--scale",
        type=float,
        nargs=2,
        default=(_LOW, _HIGH),
        metavar=("LOW", "HIGH"),
        help="range of a crop's part of the image's area",
    )
    group.add_argument("--flip", type=float, default=0.5, metavar="X", help="part of the crops that is mirrored")
    execution = parser.add_argument_group("execution")
    add_batch_size(execution, "crops")
    add_device(execution, shared=True)
    add_dtype(execution, "the teacher")
    add_workers(execution)
    add_seed(execution)
    output = parser.add_argument_group("output")
    add_label_files(output, images_per_shard=1024)
    add_json(output)
