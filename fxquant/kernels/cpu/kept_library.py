"""Libraries that were built before, in the user's cache folder: one process builds, and none loads a damaged one."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from fxquant.files import cache_folder, one_at_a_time, remove_abandoned, scratch_folder
from fxquant.progress import say


def kept_library(name: str, key: str, build: Callable[[Path], None], seconds: int) -> Path:
    """
    Return the library `name` of `key`, kept or made by `build`, which is given the file to write.

    seconds: about what building takes, to be said before.

    The name of a library holds its checksum: loading one of which a part is missing would end the process (SIGBUS). Raises
    `OSError` where it cannot be kept, and what `build` raises.
    """
    folder = cache_folder()
    remove_abandoned(folder)
    found = _find(folder, name, key)
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder / "kernels.lock", _say_waiting):
        found = _find(folder, name, key)  # made by the process that this one waited for
        return _build(folder, name, key, build, seconds) if found is None else found


def _say_waiting() -> None:
    say("another process is building the kernels for this processor: waiting for it")


def _find(folder: Path, name: str, key: str) -> Path | None:
    for file in folder.glob(f"{name}_{key}_*.so"):
        if file.name == _name(name, key, file):
            return file
        say(f"the library {str(file)!r} is damaged: it is removed")
        file.unlink(missing_ok=True)
    return None


def _build(folder: Path, name: str, key: str, build: Callable[[Path], None], seconds: int) -> Path:
    say(f"building {name}.so for this processor, about {seconds} s, once")
    start = time.perf_counter()
    with scratch_folder(folder) as scratch:
        made = scratch / "made.so"
        build(made)
        kept = folder / _name(name, key, made)
        os.replace(made, kept)
    say(f"built in {time.perf_counter() - start:.0f} s, kept as {kept}")
    return kept


def _name(name: str, key: str, file: Path) -> str:
    return f"{name}_{key}_{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}.so"
