"""Text files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from fxquant.errors import InputError
from fxquant.files.whole import write_atomically


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` in UTF-8 to `path`, under a temporary name first; raise `InputError` where it cannot be written."""
    try:
        write_atomically(path, lambda name: Path(name).write_text(text, encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot write {os.fspath(path)!r}: {error.strerror or error}") from error
