"""The images that ``--calib`` asks for, which need not come from a folder."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor

from fxquant.cli.options.calibration import DEFAULT, CalibrationSource
from fxquant.cli.resolve import collect_options
from fxquant.data.data_config import DataConfig
from fxquant.errors import InputError
from fxquant.files import cache_folder
from fxquant.graph.fingerprint import fingerprint
from fxquant.models.timm_model import TimmModel
from fxquant.synthesis import gaussian_images, load_images, synthesize
from fxquant.synthesis.synthesis_options import make_options

_SUFFIX = ".safetensors"


def refuse_contradictions(options: argparse.Namespace) -> None:
    """Raise `InputError` for options that mean nothing together, and for a file of images that is not there."""
    calib: CalibrationSource = options.calib
    if options.synthesis and calib.kind != "synthetic":
        raise InputError(f"--synthesis is for --calib synthetic, not for {calib}")
    if options.strict and options.target == "fake":
        raise InputError("--strict fails where products stay float, as they all do with --target fake: leave one out")
    if calib.file is not None and not calib.file.is_file():
        raise InputError(f"--calib: image file {str(calib.file)!r} does not exist")


def made_images(options: argparse.Namespace, source: TimmModel, config: DataConfig) -> Tensor:
    """
    Return the images ``(n, 3, H, W)`` of a source other than the data, made or read.

    Raises `InputError` where a file does not fit the model, and what `fxquant.synthesize` raises.
    """
    calib: CalibrationSource = options.calib
    size = config.input_size
    if calib.file is not None:
        images, facts = load_images(calib.file)
        for name in ("mean", "std"):
            if name in facts and tuple(facts[name]) != getattr(config, name):
                raise InputError(
                    f"--calib: expected images normalised by {name} {getattr(config, name)} for {source.name}, found "
                    f"{tuple(facts[name])} in {calib}: make images for this model"
                )
        if images.shape[1:] != size:
            raise InputError(
                f"--calib: expected images {size} for {source.name}, found {tuple(images.shape[1:])} in {calib}"
            )
        return images
    count = calib.count or DEFAULT
    if calib.kind == "noise":
        return gaussian_images(count, size, options.seed)
    chosen = {"mean": config.mean, "std": config.std} | collect_options(options.synthesis)
    return synthesize(
        source.model,
        count,
        size=size,
        seed=options.seed,
        device=options.device,
        checkpoint=_kept(source, count, size, options.seed, chosen),
        **chosen,
    ).cpu()


def _kept(source: TimmModel, count: int, size: tuple[int, ...], seed: int, chosen: dict[str, Any]) -> Path:
    """Return the file in the cache folder for images of these weights and settings."""
    settings = (source.name, fingerprint(source.model), count, size, seed, make_options(chosen))
    folder = cache_folder() / "synthesis"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot keep the images in {str(folder)!r}: {error.strerror or error}; set XDG_CACHE_HOME"
        ) from error
    return folder / f"{hashlib.sha256(repr(settings).encode()).hexdigest()[:24]}{_SUFFIX}"
