"""
How much memory a compiled model takes beside its file: while it is compiled, at its first call, and at later ones.

Each form runs in a process of its own, which has compiled and called a model of one block before it counts, so that what torch
and fxquant take once for all models is left out.

    python -m bench.resident [--models ...] [--threads 2]      # adds to bench/results/resident.json
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import fxquant
from bench.harness.processes import row_of
from bench.harness.results import Row, RowsFile
from fxquant.benchmark.memory import held_bytes, peak_bytes

MODELS = ("vit_base_patch16_224", "vit_large_patch16_224")
FORMS: dict[str, Callable[[Path], nn.Module]] = {
    "compile(load(file))": lambda file: fxquant.compile(fxquant.load(file)),
    "compile(file)": fxquant.compile,
}
ROWS = RowsFile("resident", ("model", "form"), {"recipe": "minmax W8A8", "seed": 0})
SMALL = ("vit_tiny_patch16_224", {"depth": 1})
CPU = torch.device("cpu")


def write_model(file: Path, name: str, **options: Any) -> None:
    """Save an int8 model with random weights whose rest is bfloat16; options are timm's."""
    torch.manual_seed(0)
    model = timm.create_model(name, **options).eval().to(torch.bfloat16)
    fxquant.save(fxquant.quantize(model, [_images()], "minmax", progress=False), file)


def measure_form(form: str, file: Path, small: Path) -> dict[str, Any]:
    """Return the bytes by which this process grows at the peak of each stage, and what it keeps."""
    FORMS[form](small)(_images())
    torch.compiler.reset()
    made: list[nn.Module] = []
    stages: dict[str, Callable[[], Any]] = {
        "compile": lambda: made.append(FORMS[form](file)),
        "first call": lambda: made[0](_images()),
        "later calls": lambda: made[0](_images()),
    }
    before = held_bytes(CPU)
    peaks = {name: peak_bytes(stage, CPU) for name, stage in stages.items()}
    grown = {name: peak and before and peak - before for name, peak in peaks.items()}
    return {"form": form, "file_bytes": os.path.getsize(file), "before_bytes": before, "peak_bytes": grown}


def _images() -> torch.Tensor:
    return torch.randn(1, 3, 224, 224).to(torch.bfloat16)


def measure_model(name: str, threads: int) -> list[Row]:
    """Measure the forms of a model of timm, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{each}.safetensors" for each in ("model", "small")]
        for file, each in zip(files, ((name, {}), SMALL), strict=True):
            write_model(file, each[0], **each[1])
        given = ("--threads", str(threads), "--files", *map(str, files), "--form")
        rows = [row_of("bench.resident", *given, form) for form in FORMS]
    return [{"model": name, "threads": threads, **row} for row in rows]


def main() -> None:
    """Measure each model and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--form", help=argparse.SUPPRESS)
    parser.add_argument("--files", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.form:
        print(json.dumps(measure_form(options.form, *options.files)))
        return
    for name in options.models:
        ROWS.add(*measure_model(name, options.threads))


if __name__ == "__main__":
    main()
