"""`export_aoti`: an int8 model compiled ahead of time, for programs without Python."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from torch import fx
from torch.export import ExportedProgram

from fxquant.errors import InputError, expect_path, expect_whole, reason_of
from fxquant.files import write_atomically
from fxquant.graph.meta import card_of
from fxquant.graph.stages import Stage, expect_converted
from fxquant.torch_export.python_free import python_free_program

SUFFIX = ".pt2"  # AOTInductor takes no other


def export_aoti(gm: fx.GraphModule, path: str | os.PathLike[str], batch: int | None = None) -> None:
    """
    Compile an int8 graph ahead of time, with fxquant's kernels for x86 processors, into the package `path` of AOTInductor.

    gm: from `fxquant.convert` or `fxquant.load`, on the CPU. path: of a ``.pt2`` file, written under a temporary name and
    renamed. batch: the one batch size of the package; None: any. `torch._inductor.aoti_load_package` loads it in Python once
    ``fxquant.kernels.cpu.is_available()`` has loaded the kernels. A program in C++ loads the libraries that
    `fxquant.kernels.copy_libraries` writes, and then the package: see examples/cpp. The kernels choose their instructions where
    they run; the rest is compiled for the processor of this machine. The model's data config and classes are in the metadata of
    the package, as JSON. An image that is not finite gives NaN; nothing is said of values beyond those that calibration saw.

    Raises `InputError` for any other graph, where the kernels do not run here, and where the package cannot be written;
    `UnsupportedGraphError` naming the operators that need Python.
    """
    target = _checked_path(path)
    if batch is not None:
        expect_whole("batch", batch, least=1)
    _check_graph(gm)
    program = python_free_program(gm, batch)
    try:
        write_atomically(target, lambda name: _compile(program, name, _metadata(gm)))
    except OSError as error:
        raise InputError(f"{target}: the package cannot be written: {reason_of(error)}") from error


def _checked_path(path: str | os.PathLike[str]) -> Path:
    target = expect_path(path)
    if target.suffix != SUFFIX:
        raise InputError(f"{target}: expected a file name that ends in {SUFFIX}, as AOTInductor wants it")
    return target


def _check_graph(gm: fx.GraphModule) -> None:
    expect_converted(gm, "export_aoti", Stage.LOWERED)
    elsewhere = {t.device.type for t in (*gm.parameters(), *gm.buffers())} - {"cpu"}
    if elsewhere:
        raise InputError(f"export_aoti expected a graph on the CPU, found one on {min(elsewhere)}: use gm.cpu()")


def _metadata(gm: fx.GraphModule) -> dict[str, str]:
    card = card_of(gm)
    facts = {
        "data_config": None if card.data_config is None else asdict(card.data_config),
        "class_names": list(card.class_names) or None,
    }
    return {f"fxquant.{name}": json.dumps(value) for name, value in facts.items() if value is not None}


def _compile(program: ExportedProgram, file: str, metadata: dict[str, str]) -> None:
    torch._inductor.aoti_compile_and_package(
        program, package_path=file, inductor_configs={"aot_inductor.metadata": metadata}
    )
