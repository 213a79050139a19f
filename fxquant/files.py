"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fxquant.errors import InputError


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/fxquant``, or ``~/.cache/fxquant``; it need not exist."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "fxquant"


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    """Write `data` under a temporary name first, so that an interrupted command leaves the old file or none."""
    text = json.dumps(data, indent=2, allow_nan=False, default=str) + "\n"
    try:
        write_atomically(file, lambda name: Path(name).write_text(text, encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot write {str(file)!r}: {error.strerror}") from error


def write_atomically(path: str | os.PathLike[str], write: Callable[[str], object]) -> None:
    """
    Let `write` fill a file of a temporary name beside `path`, and rename it; a link stays a link.

    Whatever fails, the file that was there before is still whole; errors are those of `write` and of the system.
    """
    target = os.path.realpath(path)
    temporary = os.path.join(os.path.dirname(target), f".fxquant-{secrets.token_hex(8)}.tmp")
    try:
        # Made here, as safetensors may give a file permissions of its own.
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = os.fstat(descriptor).st_mode & 0o777
        os.close(descriptor)
        write(temporary)
        os.chmod(temporary, mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
