"""The operators ``fxquant::cpu_*``, which the C++ libraries implement. `schemas.cpp` reads their schemas from the same file."""

from __future__ import annotations

from pathlib import Path

import torch


def schemas() -> tuple[str, ...]:
    """Return the schemas, such as ``"cpu_pack(Tensor weight, ...) -> (Tensor, Tensor)"``."""
    lines = (Path(__file__).parent / "schemas.inc").read_text(encoding="utf-8").splitlines()
    return tuple(lines[1:-1])  # between the two ends of a literal of C++


for _schema in schemas():
    _name, _, _rest = _schema.partition("(")
    torch.library.define(f"fxquant::{_name}", f"({_rest}")

KERNELS = torch.ops.fxquant
