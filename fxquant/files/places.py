"""Where something is going to be written: asked before the work, tidied up where nothing came of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from fxquant.errors import InputError
from fxquant.files.scratch import scratch_folder


def refuse_unwritable(file: Path) -> None:
    """Raise `InputError` where `file` could not be written: its folder is missing or protected, or it is one itself."""
    folder = Path(os.path.realpath(file)).parent
    if file.is_dir():
        raise InputError(f"cannot write {str(file)!r}: it is a folder, expected the name of a file")
    if file.exists() and not file.is_file():
        raise InputError(f"cannot write {str(file)!r}: it is no regular file")
    if not folder.is_dir():
        raise InputError(f"cannot write {str(file)!r}: its folder does not exist")
    try:
        with scratch_folder(folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write {str(file)!r}: {error.strerror or error}") from error


def refuse_folder(folder: Path) -> None:
    """Raise `InputError` where `folder` cannot be written to, and cannot be made."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"cannot make the folder {str(folder)!r}: {str(there)!r} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"cannot make the folder {str(folder)!r}: {str(there)!r} cannot be written to")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """
    Make `folder` and those above it for the length of the block; what is still empty when the block fails is removed again.

    Raises `InputError` where it cannot be made or written to.
    """
    refuse_folder(folder)
    made = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {str(folder)!r}: {error.strerror or error}") from error
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # from the first that holds something on, all stay
            for path in made:
                path.rmdir()
        raise
