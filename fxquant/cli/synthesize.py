"""``fxquant synthesize MODEL --out FILE``: calibration images made from the model alone."""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from fxquant.cli.output import print_facts
from fxquant.cli.preprocessing import chosen_data_config
from fxquant.cli.resolve import build_chosen_model, chosen_dtype, collect_options, start_run
from fxquant.distributed import resolve_device
from fxquant.errors import InputError
from fxquant.files import json_report, refuse_unwritable
from fxquant.measurement.environment import describe_environment
from fxquant.models.timm_model import TimmModel
from fxquant.synthesis import Progress, SynthesisOptions, save_images, save_sheet, synthesize
from fxquant.synthesis.synthesis_model import resolve_normalisation, resolve_size
from fxquant.synthesis.synthesis_options import make_options


@dataclass(frozen=True, eq=False)
class _Files:
    out: Path
    sheet: Path | None
    state: Path


def run(options: argparse.Namespace) -> None:
    """Make the images and write what was asked for."""
    start_run(options)
    with json_report(options.json) as report:
        _run(options, report)


def _run(options: argparse.Namespace, report: dict[str, Any]) -> None:
    files = _resolve_files(options)
    device, dtype = resolve_device(options.device), chosen_dtype(options)
    given = collect_options([*options.option, *_switches(options)])
    make_options(given)  # which may refuse them: the model may have to be downloaded
    source = build_chosen_model(options)
    config = chosen_data_config(options, source)
    chosen = {"mean": config.mean, "std": config.std} | given
    settings = make_options(chosen)
    size = resolve_size(
        source.model, (config.input_size[0], options.size, options.size) if options.size else config.input_size
    )
    mean, std = resolve_normalisation(source.model, settings, size[0])
    print_facts(_describe(options, source, settings, size, files))
    reached = deque[Progress](maxlen=1)
    start = time.perf_counter()
    try:
        images = synthesize(
            source.model.to(device),
            options.n,
            size=size,
            batch=options.batch,
            seed=options.seed,
            dtype=dtype,
            checkpoint=files.state,
            on_step=reached.append,
            **chosen,
        )
    except KeyboardInterrupt:
        print(f"\nthe same command goes on from {files.state}", file=sys.stderr)
        raise
    seconds = time.perf_counter() - start
    facts = _as_json(options, source, settings, images, seconds, reached[-1] if reached else None)
    facts |= {"mean": mean, "std": std}
    report |= facts | {"environment": describe_environment()}
    _write(files, images, facts)
    _print_results(files, images, seconds, reached)


def _switches(options: argparse.Namespace) -> list[tuple[str, Any]]:
    given = [("iterations", options.iterations), ("published", options.published or None)]
    return [(name, value) for name, value in given if value is not None]


def _resolve_files(options: argparse.Namespace) -> _Files:
    """Return where everything goes; refuse what could not be written once the work is done."""
    out: Path = options.out
    if out.suffix != ".safetensors":
        raise InputError(f"--out: expected a .safetensors file, got {str(out)!r}")
    sheet = None if options.no_sheet else options.sheet or out.with_suffix(".png")
    files = _Files(out, sheet, options.state or out.with_name(f"{out.name}.state"))
    for file in filter(None, (files.out, files.sheet, files.state)):
        refuse_unwritable(file)
    return files


def _describe(
    options: argparse.Namespace,
    source: TimmModel,
    settings: SynthesisOptions,
    size: tuple[int, int, int],
    files: _Files,
) -> dict[str, str]:
    published = ", as published" if settings.published else ""
    resumed = f"goes on from {files.state}" if files.state.exists() else f"state kept in {files.state}"
    return {
        "model": f"{source}, {options.dtype} on {options.device}",
        "weights": source.weights,
        "images": f"{options.n} of {'x'.join(map(str, size))}, {options.batch or options.n} together, seed {options.seed}",
        "optimise": f"{len(settings.jitter)} rounds of {settings.iterations} iterations{published}; {resumed}",
    }


def _as_json(
    options: argparse.Namespace,
    source: TimmModel,
    settings: SynthesisOptions,
    images: Tensor,
    seconds: float,
    last: Progress | None,
) -> dict[str, Any]:
    """Return what is written beside the images; last: None where a finished state was taken up."""
    return {
        "command": "synthesize",
        "model": {"name": source.name, "weights": source.weights},
        "shape": list(images.shape),
        "seed": options.seed,
        "dtype": options.dtype,
        "options": {field.name: getattr(settings, field.name) for field in fields(settings)},
        "losses": last.losses._asdict() if last else None,
        "seconds": seconds,
    }


def _write(files: _Files, images: Tensor, facts: dict[str, Any]) -> None:
    save_images(files.out, images, facts)
    if files.sheet is not None:
        save_sheet(files.sheet, images, facts["mean"], facts["std"])
    files.state.unlink(missing_ok=True)


def _print_results(files: _Files, images: Tensor, seconds: float, reached: Iterable[Progress]) -> None:
    for progress in reached:
        named = progress.losses._asdict().items()
        print("losses    " + ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in named))
    print(f"{len(images)} images in {seconds:.1f} s: {files.out}" + (f" and {files.sheet}" if files.sheet else ""))
