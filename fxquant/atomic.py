"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable


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
