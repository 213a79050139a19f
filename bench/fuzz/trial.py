"""One file: loaded, and if it loads run as it is and with the kernels that `fxquant.compile` puts into it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

import fxquant
from bench.fuzz.seeds import images
from fxquant.checkpoint.soundness.declared_inputs import declared_inputs
from fxquant.errors import CalibrationError, CheckpointError

FINE = ("refused", "ran", "undeclared", "values", "too large")  # outcomes that are no findings
LARGEST = 2**22  # values of an input that is made


def try_file(path: Path, inductor: bool = False) -> tuple[str, str]:
    """
    Return what became of a file, and what was said.

    "refused": loading it raised `CheckpointError`. "ran": eager and compiled, without an error. "load": loading raised another
    exception. "late": it loaded, and running it raised one. "undeclared": so did one whose inputs are not declared. "values":
    an observer met values that are not finite, as it says. "too large": it declares an input larger than a trial should be.

    inductor: run what `torch.compile` makes of it, too.
    """
    warnings.simplefilter("ignore")
    try:
        gm = fxquant.load(path)
    except CheckpointError as error:
        return "refused", str(error).split("safetensors: ", 1)[-1]
    except Exception as error:
        return "load", _shown(error)
    declared = declared_inputs(gm)
    if declared is not None and sum(t.numel() for t in declared) > LARGEST:
        return "too large", ""
    inputs = _inputs(gm, declared)
    try:
        return _run(gm, inputs, inductor)
    except CalibrationError as error:
        return "values", _shown(error)
    except Exception as error:
        return ("late" if declared is not None else "undeclared"), _shown(error)


def _run(gm: fx.GraphModule, inputs: list[Tensor], inductor: bool) -> tuple[str, str]:
    with torch.no_grad():
        gm(*inputs)
        compiled = fxquant.compile(gm)
        kernels: Any = compiled.graph_module
        kernels(*inputs)
        if inductor:
            compiled(*inputs)
    return "ran", ""


def _inputs(gm: fx.GraphModule, declared: list[Tensor] | None) -> list[Tensor]:
    if declared is None:
        count = sum(node.op == "placeholder" for node in gm.graph.nodes)
        return [images()] * count
    found = [images().flatten().repeat(-(-t.numel() // images().numel()))[: t.numel()] for t in declared]
    return [values.to(t.dtype).reshape(t.shape) for values, t in zip(found, declared, strict=True)]


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
