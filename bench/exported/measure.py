"""One row: a model is quantised, exported and run by other runtimes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fxquant
from bench.exported.agreement import FileAgreement, agreement, relative_error
from bench.exported.openvino_run import run_openvino
from bench.exported.subjects import Exported

Row = dict[str, Any]
INT8 = "int8"


def convert(subject: Exported, recipe: str, target: Any = "int8") -> Any:
    """Return the quantised graph of a subject; what a recipe reconstructs stays as it was, as it decides nothing here."""
    torch.manual_seed(0)
    prepared = fxquant.prepare(subject.model, fxquant.recipe(recipe), subject.calibration[0])
    return fxquant.convert(fxquant.calibrate(prepared, subject.calibration, progress=False), target)


def compared(subject: Exported, recipe: str, folder: Path, target: Any = "int8") -> tuple[FileAgreement, Any, Path]:
    """Export a subject to `folder` and compare; return the graph and the file as well."""
    gm, file = convert(subject, recipe, target), folder / f"{target}.onnx"
    fxquant.export_onnx(gm, file)
    return agreement(gm, file, (subject.images,)), gm, file


def measure(subject: Exported, recipe: str) -> Row:
    """Return what ONNX Runtime and OpenVINO make of the file of an int8 graph."""
    with tempfile.TemporaryDirectory() as name:
        found, gm, file = compared(subject, recipe, Path(name))
        outputs, products = run_openvino(file, (subject.images,))
        fxquant.save(gm, Path(name) / "saved.safetensors")
        expected, fake = (_outputs(each, subject) for each in (gm, convert(subject, recipe, "fake")))
        return {
            "recipe": recipe,
            "images": len(subject.images),
            "sites": found.sites,
            "codes": found.codes,
            "other": found.other,
            "farthest": found.farthest,
            "equal_end_to_end": found.end_to_end,
            "error": found.end_error,
            "int8": found.products[INT8],
            "products": found.products.total(),
            "fake_error": relative_error(fake, expected),
            "openvino_error": relative_error(outputs, expected),
            "openvino_int8": products[INT8],
            "openvino_products": products.total(),
            "size_bytes": os.path.getsize(file),
            "saved_bytes": os.path.getsize(Path(name) / "saved.safetensors"),
        }


def _outputs(gm: Any, subject: Exported) -> list[Tensor]:
    with torch.no_grad():
        found = gm(subject.images)
    return [found] if isinstance(found, Tensor) else list(found.values())
