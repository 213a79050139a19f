"""Synthetic calibration images of ``bench.imagenet``, made once for all rows and processes."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor

import fxquant
from fxquant.graph.fingerprint import fingerprint
from fxquant.models.timm_model import TimmModel
from fxquant.synthesis import load_images, save_images
from fxquant.synthesis.synthesis_options import make_options


def synthetic_images(
    folder: Path, source: TimmModel, count: int, size: tuple[int, int, int], seed: int, options: Mapping[str, Any]
) -> Tensor:
    """
    Return `count` images ``(count, *size)`` that `fxquant.synthesize` makes of the model, or made before.

    They are a file in `folder` of a name that tells the model and every setting. The first process that asks for them makes
    them, and goes on where an interrupted one stopped; others wait for the file, and a killed process loses its lock.
    """
    settings = (fingerprint(source.model), size, make_options(dict(options)))
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:12]
    file = folder / f"{source.name}-{count}-{seed}-{digest}.safetensors"
    folder.mkdir(exist_ok=True)
    with FileLock(f"{file}.lock"):
        if not file.exists():
            state = file.with_name(f"{file.name}.state")
            progress = sys.stderr.isatty()
            images = fxquant.synthesize(
                source.model, count, size=size, seed=seed, progress=progress, checkpoint=state, **options
            )
            save_images(file, images, {"model": source.name, "weights": source.weights, "seed": seed, **options})
            state.unlink(missing_ok=True)
    images, _ = load_images(file)
    return images
