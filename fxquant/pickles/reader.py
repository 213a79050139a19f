"""Read files of `torch.save`, in which no file decides what is imported and which functions are called."""

from __future__ import annotations

import contextlib
import io
import os
import pickletools
import threading
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from fxquant.pickles.protocol import readable
from fxquant.pickles.stand_in import Called, StandIn

_LOCK = threading.RLock()  # torch keeps its list of allowed names for the whole process
_LEGACY_PICKLES = 4  # at the start of a file that is no zip archive: magic number, version, system, what was saved


def load_pickled(source: str | os.PathLike[str] | IO[bytes], stand_ins: Iterable[tuple[Any, str]]) -> Any:
    """
    Return what `torch.save` wrote to `source`, with tensors on the CPU.

    torch rebuilds its own tensors and plain data (``weights_only``). stand_ins: what takes the place of other classes and
    functions, and the dotted name of each. Any other name raises `pickle.UnpicklingError`. A damaged file may raise any
    exception.
    """
    with _LOCK, safe_globals(list(stand_ins)):
        return torch.load(source, map_location="cpu", weights_only=True)


def load_inert(file: Path) -> Any:
    """
    Return what `torch.save` wrote to `file`, where a `StandIn` takes the place of every class and function outside torch's
    list of harmless ones.

    Raises as `load_pickled` does: `pickle.UnpicklingError` for modules of the system such as ``os``, and for what stand-ins
    cannot take, such as items of a subclass of list.
    """
    source = readable(file)
    with _LOCK:  # else names that another thread has allowed would be missing
        names = _names(source)
        return load_pickled(source, [(Called, f"{Called.__module__}.Called"), *((StandIn, name) for name in names)])


def foreign_names(file: Path) -> list[str]:
    """Return the dotted names of the classes and functions in `file` that are not of torch's list; all in an old file."""
    return _names(readable(file))


def _names(source: Path | io.BytesIO) -> list[str]:
    with source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source) as opened:
        try:
            return sorted(get_unsafe_globals_in_checkpoint(opened))
        except Exception:  # it reads zip archives alone
            opened.seek(0)
            return sorted(_legacy_names(opened))
        finally:
            opened.seek(0)


def _legacy_names(opened: IO[bytes]) -> set[str]:
    names = set[str]()
    try:
        for _ in range(_LEGACY_PICKLES):
            names |= {_renamed(str(arg)) for op, arg, _ in pickletools.genops(opened) if op.name == "GLOBAL"}
    except Exception:  # damaged: torch says how
        return names
    return names


def _renamed(argument: str) -> str:
    """Return the dotted name of ``"module name"``, which is of Python 2 in what `torch.save` writes, as torch reads it."""
    module, _, name = argument.partition(" ")
    return ".".join(NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name)))
