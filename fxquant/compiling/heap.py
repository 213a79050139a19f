"""The heap of glibc, which keeps what was freed in case that it is asked for again."""

from __future__ import annotations

import ctypes


def trim_heap() -> None:
    """Return freed memory to the system; without glibc this does nothing."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return
