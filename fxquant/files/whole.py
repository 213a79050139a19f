"""Write files so that under their name there is always a whole one, the old or the new."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from fxquant.files.scratch import scratch_folder


def write_atomically(path: str | os.PathLike[str], write: Callable[[str], object]) -> None:
    """
    Let `write` fill a file in a folder of its own beside `path`, and rename it; a link stays a link.

    Whatever fails, the file that was there before is still whole, and once this returns the new one outlives a loss of power.
    What processes that were killed left beside `path` is removed. Errors are those of `write` and of the system.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # a device, whose name would be taken from it
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    with scratch_folder(target.parent) as folder:
        made = folder / f"new{target.suffix}"
        # Made here, as safetensors may give a file permissions of its own.
        descriptor = os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = os.fstat(descriptor).st_mode & 0o777
        os.close(descriptor)
        write(str(made))
        os.chmod(made, mode)
        _flush(made)
        os.replace(made, target)
        _flush(target.parent)


def duplicate(source: Path, target: Path) -> None:
    """Give `target` the content of `source` at once; nothing is copied where the file system has links."""
    with scratch_folder(target.parent) as folder:
        made = folder / f"new{target.suffix}"
        try:
            os.link(source, made)
        except OSError:
            shutil.copyfile(source, made)
            _flush(made)
        os.replace(made, target)
        _flush(target.parent)


def _flush(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder may let names be written and not be read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not of a kind that is flushed
            raise
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)
