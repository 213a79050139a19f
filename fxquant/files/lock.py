"""Locks on files, which the system frees when the process that holds one ends, however it does."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system without locks answers."""


def hold(descriptor: int) -> bool:
    """Lock an open file for as long as it stays open; return False where another process has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def one_at_a_time(file: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """
    Let no two processes, nor two threads, be in the block of one `file` together; it is made, and stays, empty.

    on_wait: called where somebody else is in it, before waiting. Where the file system has no locks, all go in.
    """
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        try:
            if not hold(descriptor):
                on_wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)
