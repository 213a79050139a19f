"""``fxquant make-labels MODEL --data DIR --out DIR``: what a teacher says of random crops of every image."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch

from fxquant.cli.labels import add_label_options, finish, read_images
from fxquant.cli.output import print_facts
from fxquant.cli.preprocessing import chosen_data_config
from fxquant.cli.shared_options import DTYPES, add_model_options, add_run_options, build_chosen_model, start_run
from fxquant.data.folder import Samples
from fxquant.distillation import make_labels
from fxquant.distributed import first_then_others, only_first, work_as_one
from fxquant.measurement.option_values import natural, positive
from fxquant.models.timm_model import TimmModel

DESCRIPTION = """
Store what a teacher, any timm model, says of random crops of every training image, so that a student can be trained by
distillation (FKD) without running the teacher again. The labels go to a folder of .safetensors files and an index. An
interrupted run goes on where it was when the same command is given again. Processes that torchrun starts share out the files.
An image that cannot be read is an error.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.set_defaults(run=run)
    add_model_options(parser)
    add_label_options(parser, images_per_shard=1024)
    _add_crops(parser)
    add_run_options(parser)


def run(options: argparse.Namespace) -> None:
    """Make the labels and say what was written."""
    start_run(options)
    with work_as_one(options.device) as device:
        _run(options, device)


def _run(options: argparse.Namespace, device: torch.device) -> None:
    samples = first_then_others(lambda: read_images(options))
    source = first_then_others(lambda: build_chosen_model(options))  # which may download
    config = chosen_data_config(options, source)
    print_facts(_describe(options, source, samples, config.input_size))
    start = time.perf_counter()
    try:
        manifest = make_labels(
            source.model.to(DTYPES[options.dtype]),
            samples,
            config,
            options.out,
            options.crops,
            options.kind,
            scale=tuple(options.scale),
            flip=options.flip,
            seed=options.seed,
            batch_size=options.batch_size,
            device=device,
            workers=options.workers,
            name=source.name,
            images_per_shard=options.images_per_shard,
        )
    except KeyboardInterrupt:
        only_first(print, f"\nthe same command goes on from {options.out}", file=sys.stderr)
        raise
    seconds = time.perf_counter() - start
    teacher = {"name": source.name, "weights": source.weights}
    only_first(finish, options, "make-labels", manifest, seconds, teacher)


def _add_crops(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("crops")
    group.add_argument("--crops", type=positive, default=500, metavar="N", help="per image (%(default)s)")
    low, high = 0.08, 0.936
    group.add_argument(
        "--scale",
        type=float,
        nargs=2,
        default=(low, high),
        metavar=("LOW", "HIGH"),
        help=f"range of a crop's part of the image's area ({low} {high})",
    )
    group.add_argument("--flip", type=float, default=0.5, metavar="P", help="part of them mirrored (%(default)s)")
    group.add_argument("--batch-size", type=positive, default=64, metavar="N", help="crops per batch (%(default)s)")
    group.add_argument(
        "--device", default="cpu", help="such as cpu or cuda, under torchrun a GPU for each process (%(default)s)"
    )
    group.add_argument("--dtype", choices=DTYPES, default="float32", help="of the teacher (%(default)s)")
    workers = min(4, os.cpu_count() or 1)
    group.add_argument("--workers", type=natural, default=workers, metavar="N", help="loading processes (%(default)s)")


def _describe(
    options: argparse.Namespace, source: TimmModel, samples: Samples, size: tuple[int, int, int]
) -> dict[str, str]:
    shape = "x".join(map(str, size))
    return {
        "teacher": f"{source}, {options.dtype} on {options.device}",
        "weights": source.weights,
        "images": f"{len(samples)} in {samples.root}",
        "labels": f"{options.crops} crops of {shape} per image, {options.kind.value}, seed {options.seed}",
        "to": _state(options.out),
    }


def _state(out: Path) -> str:
    there = len(list(out.glob("labels-*.safetensors"))) if out.is_dir() else 0
    return f"{out}, which holds {there} files already" if there else str(out)
