"""``len`` of a tensor while a model is exported: Python wants a number, where torch.export has a size that may be free."""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


@contextlib.contextmanager
def lengths_as_sizes(model: nn.Module) -> Iterator[None]:
    """Let ``len(x)`` of a tensor be ``x.shape[0]`` in the files in which the classes of the modules of `model` are written."""
    names = {cls.__module__ for module in model.modules() for cls in type(module).__mro__}
    files = [vars(sys.modules[name]) for name in names if name in sys.modules and not _is_library(name)]
    shadowed = [file for file in files if "len" not in file]
    for file in shadowed:
        file["len"] = _length
    try:
        yield
    finally:
        for file in shadowed:
            del file["len"]


def _length(value: Any) -> Any:
    return value.shape[0] if isinstance(value, Tensor) and value.ndim else builtins.len(value)


def _is_library(name: str) -> bool:
    return name.partition(".")[0] in ("torch", "builtins")
