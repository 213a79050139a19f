"""The state of a training on disk: one file that is whole or not there, and the one written before it."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fxquant.errors import CheckpointError, reason_of
from fxquant.files import duplicate, write_atomically

_KIND = "fxquant_training"
_FORMAT = 1
_PARTS = ("settings", "model", "optimizer", "ema", "freezer", "progress")


class StateFile:
    """
    The file of a training, from which it can go on. `settings` tell this training from others.

    file: None writes nothing.
    interval: seconds between two writes.
    """

    def __init__(self, file: Path | None, settings: Mapping[str, Any], interval: float) -> None:
        self.file = file
        self.settings = dict(settings)
        self.interval = interval
        self._written = time.monotonic()
        self._good = False  # whether what lies there now is worth keeping as the previous one

    @property
    def previous(self) -> Path | None:
        """The file of the state before the last one."""
        return None if self.file is None else previous_of(self.file)

    @property
    def due(self) -> bool:
        """Whether the interval has passed since the last write."""
        return self.file is not None and time.monotonic() - self._written >= self.interval

    def read(self, file: Path | None = None) -> dict[str, Any]:
        """
        Return the state in `file`; None reads the training's own file.

        Raises `CheckpointError` as `read_state` does. For the file of another training it names what differs.
        """
        chosen = file or self.file
        if chosen is None:
            raise CheckpointError("there is no file to go on from: give a folder to keep the training in")
        state = read_state(chosen)
        compare_settings(chosen, state["settings"], self.settings)
        self._good = self._good or chosen == self.file
        return state

    def write(self, state: Mapping[str, Any]) -> None:
        """Write `state` and keep the one before; raise `CheckpointError` where that fails."""
        if self.file is None or self.previous is None:
            return
        content = {"kind": _KIND, "format": _FORMAT, "settings": self.settings, **state}
        try:
            if self._good:
                duplicate(self.file, self.previous)
            write_atomically(self.file, lambda name: _save(content, name))
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
            raise CheckpointError(f"cannot write {str(self.file)!r}: {reason_of(error)}") from error
        self._good = True
        self._written = time.monotonic()


def previous_of(file: Path) -> Path:
    """Return the file that keeps the state before that in `file`."""
    return file.with_name(f"{file.stem}.previous{file.suffix}")


def read_state(file: Path) -> dict[str, Any]:
    """
    Return what a training wrote to `file`; reading it runs no code.

    Raises `CheckpointError` for a file that is missing, damaged, of another kind or of another format. If the state before
    it is there, the message says so.
    """
    if not file.is_file():
        raise CheckpointError(f"checkpoint {str(file)!r} does not exist")
    try:
        with zipfile.ZipFile(file) as archive:  # torch.load does not look at the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"checksum of {damaged} is wrong")
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # a damaged archive raises anything: OSError, struct.error, zlib.error, NotImplementedError
        raise CheckpointError(f"cannot read {str(file)!r}, it is damaged: {reason_of(error)}{_hint(file)}") from error
    if not isinstance(state, dict) or state.get("kind") != _KIND:
        raise CheckpointError(f"{str(file)!r} is none that a training wrote")
    if state.get("format") != _FORMAT:
        raise CheckpointError(f"{str(file)!r} has format {state.get('format')!r}, this fxquant reads {_FORMAT}")
    if not all(name in state for name in _PARTS):
        raise CheckpointError(f"{str(file)!r} is damaged: it does not hold a whole state{_hint(file)}")
    return state


def compare_settings(file: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` naming each setting in which a file differs from what is wanted."""
    names = [name for name in dict.fromkeys([*wanted, *saved]) if saved.get(name) != wanted.get(name)]
    if names:
        differences = "; ".join(
            f"{name} is {_shown(saved.get(name))} there and {_shown(wanted.get(name))} here" for name in names
        )
        raise CheckpointError(
            f"{str(file)!r} holds another training: {differences}. Give the same settings to go on with it, or another folder"
        )


def _save(content: Mapping[str, Any], name: str) -> None:
    with open(name, "wb") as file:  # by which torch's error has the system's behind it
        torch.save(content, file)


def _hint(file: Path) -> str:
    before = previous_of(file)
    return f". The one before it is {str(before)!r}: --resume {before} goes on from there" if before.is_file() else ""


def _shown(value: object) -> str:
    return "not set" if value is None else str(value)
