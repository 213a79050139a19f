"""``fxquant pack-labels LABELS --data DIR --out DIR``: published labels in few files."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from fxquant.cli.labels import describe_written, labels_as_json, read_images
from fxquant.cli.output import print_facts
from fxquant.cli.resolve import start_run
from fxquant.distillation import pack_labels
from fxquant.distributed import first_then_others, only_first, rank, work_as_one
from fxquant.files import json_report


def run(options: argparse.Namespace) -> None:
    """Pack the labels and say what was written."""
    start_run(options)
    with work_as_one("cpu"), json_report(options.json if rank() == 0 else None) as report:
        _run(options, report)


def _run(options: argparse.Namespace, report: dict[str, Any]) -> None:
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
    seconds = time.perf_counter() - start
    print(describe_written(options.out, manifest, seconds))
    report |= labels_as_json(options, "pack-labels", manifest, seconds, {"name": options.teacher})
