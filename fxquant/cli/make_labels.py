"""``fxquant make-labels MODEL --data DIR --out DIR``: what a teacher says of random crops of every image."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from fxquant.cli.labels import describe_written, labels_as_json, read_images
from fxquant.cli.output import print_facts
from fxquant.cli.preprocessing import chosen_data_config
from fxquant.cli.resolve import build_chosen_model, chosen_dtype, start_run
from fxquant.data.folder import Samples
from fxquant.distillation import make_labels
from fxquant.distributed import first_then_others, only_first, rank, work_as_one
from fxquant.files import json_report
from fxquant.models.timm_model import TimmModel


def run(options: argparse.Namespace) -> None:
    """Make the labels and say what was written."""
    start_run(options)
    with (
        work_as_one(options.device) as device,
        json_report(options.json if rank() == 0 else None) as report,
    ):
        _run(options, device, report)


def _run(options: argparse.Namespace, device: torch.device, report: dict[str, Any]) -> None:
    samples = first_then_others(lambda: read_images(options))
    source = first_then_others(lambda: build_chosen_model(options))  # which may download
    config = chosen_data_config(options, source)
    print_facts(_describe(options, source, samples, config.input_size))
    start = time.perf_counter()
    try:
        manifest = make_labels(
            source.model.to(chosen_dtype(options)),
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
    print(describe_written(options.out, manifest, seconds))
    report |= labels_as_json(options, "make-labels", manifest, seconds, teacher)


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
