"""A model walked in a process of its own, and loaded in another one, this."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from pathlib import Path

from bench.harness.results import Row
from bench.zoo.entries import ENTRIES
from bench.zoo.entry import Entry
from bench.zoo.walk import is_saved, walk

TIME_LIMIT = 300.0  # seconds for one model
_ROW_FILE = "row.json"
# Its server imports torch and the libraries once, before it is forked for each model.
_CONTEXT = multiprocessing.get_context("forkserver")


def walk_in_process(entry: Entry, limit: float = TIME_LIMIT) -> Row:
    """
    Return the row of `walk` in a process of its own, also where that is killed or never ends.

    What it saved is loaded here: `saved` says whether that gives equal bits, or what happened.
    """
    failed: Row = {"source": entry.source, "family": entry.family, "model": entry.model}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        multiprocessing.set_forkserver_preload([__name__])
        process = _CONTEXT.Process(target=_write_row, args=(entry.key, folder))
        process.start()
        process.join(limit)
        if process.exitcode is None:
            process.kill()
            process.join()
            return failed | {"stopped": f"time limit of {limit:g} s"}
        file = folder / _ROW_FILE
        if not file.exists():
            return failed | {"stopped": f"exit status {process.exitcode}"}
        row: Row = json.loads(file.read_text(encoding="utf-8"))
        return row if "stopped" in row else row | _loaded(folder)


def _write_row(key: str, folder: Path) -> None:
    row = walk(ENTRIES[key], folder)
    (folder / _ROW_FILE).write_text(json.dumps(row), encoding="utf-8")


def _loaded(folder: Path) -> Row:
    try:
        return {"saved": is_saved(folder)}
    except Exception as error:
        return {"stopped": f"load: {type(error).__name__}: {str(error)[:2000]}"}
