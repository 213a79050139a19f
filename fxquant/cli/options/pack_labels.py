"""The options of ``fxquant pack-labels``."""

from __future__ import annotations

import argparse
from pathlib import Path

from fxquant.cli.options.labels import add_label_files, add_label_kind, add_labelled_images
from fxquant.cli.options.shared import add_json, add_seed
from fxquant.measurement.option_values import positive

DESCRIPTION = """
Turn published labels for distillation (FKD), one .tar file of torch.save per image, into few .safetensors files and an index,
of which training reads only the crops it draws. Nothing is rounded, and no code in the label files is run. LABELS is the
folder above the one called like the images' data set, or, where that has another name, that one or the part (train) in it. An
interrupted run goes on where it was when the same command is given again. Processes that torchrun starts share out the files.
"""
EXAMPLES = ("fxquant pack-labels FKD_soft_label_500_crops_marginal_smoothing_k_5 --data imagenet --out packed",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("labels", type=Path, metavar="LABELS", help="the folder of published labels")
    add_labelled_images(parser.add_argument_group("images"))
    group = parser.add_argument_group("labels")
    add_label_kind(group)
    group.add_argument("--num-classes", type=positive, default=1000, metavar="N", help="classes of the teacher")
    group.add_argument("--teacher", metavar="NAME", help="note in the index which model made the labels")
    group.add_argument("--size", type=positive, metavar="N", help="note the height and width of its images")
    group.add_argument("--interpolation", metavar="NAME", help="note with which they were resized")
    execution = parser.add_argument_group("execution")
    execution.add_argument("--workers", type=positive, default=4, metavar="N", help="reading threads")
    add_seed(execution)
    output = parser.add_argument_group("output")
    add_label_files(output, images_per_shard=4096)
    add_json(output)
