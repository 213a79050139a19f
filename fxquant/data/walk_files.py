"""The files below a folder, each folder once, however its links run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fxquant.errors import InputError

_Identity = tuple[int, int]


def walk_files(folder: Path, above: Path) -> Iterator[Path]:
    """
    Yield the files below `folder` that are not hidden. A folder that links lead to again is passed over.

    above: the folder that holds `folder`; links back to it, and to those above it, are not followed either. Raises
    `InputError` for a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"cannot read the folder {error.filename!r}: {error.strerror}") from error

    seen = {_identity(path) for path in _with_parents(above)} | {_identity(folder)}
    for base, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        kept = []
        for name in folders:
            identity = _identity(Path(base, name))
            if not name.startswith(".") and identity not in seen:
                seen.add(identity)
                kept.append(name)
        folders[:] = kept
        yield from (Path(base, n) for n in names if not n.startswith("."))


def leads_back(path: Path, folder: Path) -> bool:
    """Say whether the folder `path` is `folder` or one of those above it."""
    return path.is_symlink() and _identity(path) in {_identity(above) for above in _with_parents(folder)}


def _with_parents(folder: Path) -> tuple[Path, ...]:
    real = folder.resolve()
    return (real, *real.parents)


def _identity(folder: Path) -> _Identity:
    found = folder.stat()
    return found.st_dev, found.st_ino
