"""The file of ``bench.imagenet``: rows and float results by key, shared by processes."""

from __future__ import annotations

import json
from pathlib import Path

from filelock import FileLock

from bench.harness.results import Row
from fxquant.errors import InputError
from fxquant.files import write_json


class ImagenetResults:
    """
    A JSON file of rows and float results by key, shared by processes.

    Each entry is written at once and as a whole, under a lock that a killed process loses: the file is valid at any time.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = FileLock(f"{file}.lock")

    def read(self) -> dict[str, dict[str, Row]]:
        """Return ``{"floats": {key: result}, "rows": {key: row}}``; raise `InputError` for a file of something else."""
        empty: dict[str, dict[str, Row]] = {"floats": {}, "rows": {}}
        if not self.file.exists():
            return empty
        try:
            data = json.loads(self.file.read_text(encoding="utf-8"))
            return {part: dict(data[part]) for part in empty}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{str(self.file)!r} does not hold rows of this benchmark: {error}") from error

    def put(self, part: str, key: str, row: Row) -> None:
        """Add or replace one entry of "floats" or "rows"."""
        with self._lock:
            data = self.read()
            data[part][key] = row
            write_json(self.file, data)


def is_done(row: Row | None) -> bool:
    """Say whether a row holds a result: one that failed is tried again."""
    return row is not None and "error" not in row
