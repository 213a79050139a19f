"""``fxquant pack-labels LABELS --data DIR --out DIR``: published labels in few files."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from fxquant.cli.labels import add_label_options, finish, read_images
from fxquant.cli.output import print_facts
from fxquant.cli.shared_options import add_run_options, start_run
from fxquant.distillation import pack_labels
from fxquant.distributed import first_then_others, only_first, work_as_one
from fxquant.measurement.option_values import positive

DESCRIPTION = """
Turn published labels for distillation (FKD), one .tar file of torch.save per image, into few .safetensors files and an index,
of which training reads only the crops it draws. Nothing is rounded, and no code in the label files is run. LABELS is the
folder above the one called like the images' data set, or, where that has another name, that one or the part (train) in it. An
interrupted run goes on where it was when the same command is given again. Processes that torchrun starts share out the files.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.set_defaults(run=run)
    parser.add_argument("labels", type=Path, metavar="LABELS", help="the folder of published labels")
    add_label_options(parser, images_per_shard=4096)
    parser.add_argument("--num-classes", type=positive, default=1000, metavar="N", help="of the teacher (%(default)s)")
    group = parser.add_argument_group("facts to note in the index")
    group.add_argument("--teacher", metavar="NAME", help="the model that made the labels")
    group.add_argument("--size", type=positive, metavar="N", help="height and width of its images")
    group.add_argument("--interpolation", metavar="NAME", help="with which they were resized")
    parser.add_argument("--workers", type=positive, default=4, metavar="N", help="reading threads (%(default)s)")
    add_run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Pack the labels and say what was written."""
    start_run(options)
    with work_as_one("cpu"):
        _run(options)


def _run(options: argparse.Namespace) -> None:
    samples = first_then_others(lambda: read_images(options))
    print_facts(
        {
            "labels": f"{options.labels}, {options.kind.value}, {options.num_classes} classes",
            "images": f"{len(samples)} in {samples.root}",
            "to": str(options.out),
        }
    )
    start = time.perf_counter()
    try:
        manifest = pack_labels(
            options.labels,
            samples,
            options.out,
            options.kind,
            options.num_classes,
            teacher=options.teacher,
            size=options.size,
            interpolation=options.interpolation,
            images_per_shard=options.images_per_shard,
            workers=options.workers,
        )
    except KeyboardInterrupt:
        only_first(print, f"\nthe same command goes on from {options.out}", file=sys.stderr)
        raise
    only_first(finish, options, "pack-labels", manifest, time.perf_counter() - start, {"name": options.teacher})
