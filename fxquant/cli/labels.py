"""What the commands that write labels share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fxquant.data.folder import Samples, read_image_tree
from fxquant.distillation import LabelKind
from fxquant.distillation.label_kind import kind_names
from fxquant.distillation.manifest import Manifest
from fxquant.errors import ConfigError, InputError
from fxquant.files import write_json
from fxquant.measurement.environment import describe_environment
from fxquant.measurement.option_values import positive


def label_kind(text: str) -> LabelKind:
    """Parse a kind of labels by name."""
    try:
        return LabelKind(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_label_options(parser: argparse.ArgumentParser, images_per_shard: int) -> None:
    """Add images, output and kind of labels."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="the image folder, whose train/ is taken"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the folder of the labels, which is made"
    )
    parser.add_argument(
        "--kind",
        type=label_kind,
        default=LabelKind.MARGINAL_SMOOTHING_K5,
        metavar="KIND",
        help=f"one of {', '.join(kind_names())} (marginal_smoothing_k5)",
    )
    parser.add_argument(
        "--images-per-shard",
        type=positive,
        default=images_per_shard,
        metavar="N",
        help="images per file: what is lost where a run is interrupted (%(default)s)",
    )


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


def finish(
    options: argparse.Namespace, command: str, manifest: Manifest, seconds: float, teacher: dict[str, Any]
) -> None:
    """Say what was written, and write the report that was asked for."""
    print(_describe_written(options.out, manifest, seconds))
    _write_report(options, command, manifest, seconds, teacher)


def _describe_written(out: Path, manifest: Manifest, seconds: float) -> str:
    """Return one line on what is in `out`."""
    size = sum((out / shard.file).stat().st_size for shard in manifest.shards) / 1024**2
    files = "1 file" if len(manifest.shards) == 1 else f"{len(manifest.shards)} files"
    return (
        f"{manifest.crops} crops of {manifest.images} images, {manifest.kind.value} labels of {manifest.num_classes} classes, "
        f"in {seconds:.1f} s: {out}, {files}, {size:.1f} MiB"
    )


def _write_report(
    options: argparse.Namespace, command: str, manifest: Manifest, seconds: float, teacher: dict[str, Any]
) -> None:
    """Write what was made to the JSON file that was asked for."""
    if options.json:
        facts = {
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
        }
        write_json(options.json, facts | {"environment": describe_environment()})
