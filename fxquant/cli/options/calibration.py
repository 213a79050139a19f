"""``--calib``: where the images come from that a model is calibrated with."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from fxquant.cli.options.synthesize import synthesis_option
from fxquant.measurement.option_values import positive

DEFAULT = 32
SOURCES = ("real", "noise", "synthetic")
_SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class CalibrationSource:
    """kind: one of `SOURCES`, or "file". count: of images; None is all that the file holds."""

    kind: str
    count: int | None
    file: Path | None = None

    def __str__(self) -> str:
        return str(self.file) if self.file else f"{self.kind}:{self.count}"


def add_calibration_options(group: argparse._ArgumentGroup) -> None:
    """Add where calibration images come from, how many, and in which batches."""
    group.add_argument(
        "--calib",
        type=calibration_source,
        default=CalibrationSource("real", DEFAULT),
        metavar="SOURCE",
        help=f"N images of the data, or real, noise or synthetic (with :N, else {DEFAULT}), or a file of images "
        "(n, C, H, W), normalised, such as fxquant synthesize writes (.safetensors, .pt); synthetic images are made from the "
        "model alone, once, and kept in the cache folder",
    )
    group.add_argument(
        "--calib-batch-size", type=positive, metavar="N", help="images per calibration batch (default: --batch-size)"
    )
    group.add_argument(
        "--synthesis",
        type=synthesis_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of --calib synthetic, such as iterations=200; repeatable, see fxquant synthesize --help",
    )


def calibration_source(text: str) -> CalibrationSource:
    """Parse N, SOURCE, SOURCE:N, or the name of a file of images."""
    if text.endswith(_SUFFIXES):
        return CalibrationSource("file", None, Path(text))
    kind, colon, count = ("real", ":", text) if text.lstrip("-").isdigit() else text.partition(":")
    if kind not in SOURCES or (colon and not count.lstrip("-").isdigit()):
        raise argparse.ArgumentTypeError(
            f"expected N, {', '.join(SOURCES)}, one of them with :N, or a file {', '.join(_SUFFIXES)}, got {text!r}"
        )
    return CalibrationSource(kind, positive(count) if colon else DEFAULT)
