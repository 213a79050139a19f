"""What the commands that write labels share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fxquant.data.folder import Samples, read_image_tree
from fxquant.distillation.manifest import Manifest
from fxquant.errors import InputError
from fxquant.measurement.environment import describe_environment


def read_images(options: argparse.Namespace) -> Samples:
    """
    Return the images to label; print what a reader should know about their folder.

    Raises `InputError` where there are none, or the output is no folder and cannot become one.
    """
    out: Path = options.out
    if not out.absolute().parent.is_dir() or (out.exists() and not out.is_dir()):
        raise InputError(f"--out: cannot make the folder {str(out)!r}: its parent does not exist, or it is a file")
    tree = read_image_tree(options.data)
    for note in tree.notes:
        print(f"note: {note}")
    return tree.calibration


def describe_written(out: Path, manifest: Manifest, seconds: float) -> str:
    """Return one line on what is in `out`."""
    size = sum((out / shard.file).stat().st_size for shard in manifest.shards) / 1024**2
    files = "1 file" if len(manifest.shards) == 1 else f"{len(manifest.shards)} files"
    return (
        f"{manifest.crops} crops of {manifest.images} images, {manifest.kind.value} labels of {manifest.num_classes} classes, "
        f"in {seconds:.1f} s: {out}, {files}, {size:.1f} MiB"
    )


def labels_as_json(
    options: argparse.Namespace, command: str, manifest: Manifest, seconds: float, teacher: dict[str, Any]
) -> dict[str, Any]:
    """Return what was made."""
    return {
        "command": command,
        "teacher": teacher,
        "out": str(options.out),
        "kind": manifest.kind.value,
        "num_classes": manifest.num_classes,
        "images": manifest.images,
        "crops": manifest.crops,
        "files": len(manifest.shards),
        "facts": dict(manifest.facts),
        "seconds": seconds,
        "environment": describe_environment(),
    }
