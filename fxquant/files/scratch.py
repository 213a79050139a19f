"""
Folders for work in progress: each is held by the process that fills it, and the next one to work there removes those that
nobody holds any more.

A process that is killed cannot tidy up, and neither can the libraries that write for it, which have temporary files of their
own. So all of it goes into one folder with a file ``.lock`` in it. The system frees a lock when its process ends, however it
does; a process id would tell nothing in another container or on another machine.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from fxquant.files.lock import NO_LOCKS, hold

_PREFIX, _SUFFIX, _LOCK = ".fxquant-", ".tmp", ".lock"
# A file system without locks cannot tell whose process has ended: what has not changed for that long is left over.
_ABANDONED_SECONDS = 24 * 3600
_ATTEMPTS = 100


@contextlib.contextmanager
def scratch_folder(parent: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Yield a new hidden folder in `parent`, removed at the end of the block, or by the next call once the process is gone.

    Raises `OSError` where the folder cannot be made.
    """
    remove_abandoned(parent)
    folder, lock = _make(Path(parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_abandoned(parent: str | os.PathLike[str]) -> None:
    """Remove the folders of this kind in `parent` that no living process holds, as far as this one may."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX):
                with contextlib.suppress(OSError):  # of another user, or removed by somebody else by now
                    _remove_unless_held(Path(entry.path))


def _make(parent: Path) -> tuple[Path, int]:
    """Return a new folder and its lock, held."""
    for _ in range(_ATTEMPTS):
        folder = parent / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        folder.mkdir()
        try:
            lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o666)
        except FileNotFoundError:  # taken for left over before it had a lock
            continue
        with contextlib.suppress(OSError):  # where there are no locks, its age tells
            if not hold(lock):
                os.close(lock)
                continue
        if folder.exists():
            return folder, lock
        os.close(lock)
    raise OSError(errno.EBUSY, "temporary folders are removed as soon as they are made", str(parent))


def _remove_unless_held(folder: Path) -> None:
    file = folder / _LOCK if folder.is_dir() else folder
    lock = os.open(file, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        if _is_abandoned(lock, folder):
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    finally:
        os.close(lock)


def _is_abandoned(lock: int, folder: Path) -> bool:
    try:
        return hold(lock)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS
