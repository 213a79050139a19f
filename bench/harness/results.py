"""The JSON files of ``bench/results``, from which the figures of README.md and docs come."""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fxquant.errors import InputError
from fxquant.files import write_json
from fxquant.measurement.environment import describe_environment

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
Row = dict[str, Any]


def results_file(name: str) -> Path:
    """Return ``bench/results/<name>.json``; it need not exist."""
    return RESULTS / f"{name}.json"


def read_json(file: Path) -> dict[str, Any]:
    """Return what a file holds, nothing where there is none."""
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return data


def write_results(name: str, rows: Any, **facts: Any) -> Path:
    """Write ``bench/results/<name>.json``: the rows, how they were measured and on what."""
    RESULTS.mkdir(exist_ok=True)
    file = results_file(name)
    write_json(file, describe_run() | facts | {"rows": rows})
    return file


def describe_run() -> dict[str, Any]:
    """Return when, from which commit and on what something is measured."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"date": now, "commit": _commit(), "environment": describe_environment()}


@dataclass(frozen=True)
class RowsFile:
    """
    The rows of ``bench/results/<name>.json``, where a row takes the place of its own earlier measurement.

    key: the columns that say what a row is of. facts: what the file says of all rows; those of a file of another `format`
    are forgotten, as other columns cannot stand in one table. order: where a row stands, else the last measured is last.
    """

    name: str
    key: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    order: Callable[[Row], Any] | None = None

    def read(self) -> list[Row]:
        """Return the rows that were measured before."""
        data = read_results(self.name)
        return data.get("rows", []) if data.get("format") == self.facts.get("format") else []

    def add(self, *rows: Row) -> None:
        """Write the file with these rows as well."""
        own = {self._key(row) for row in rows}
        kept = [*(row for row in self.read() if self._key(row) not in own), *rows]
        write_results(self.name, sorted(kept, key=self.order) if self.order else kept, **self.facts)

    def _key(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[column] for column in self.key)


def read_results(name: str) -> dict[str, Any]:
    """Return what ``bench/results/<name>.json`` holds, nothing where there is none."""
    return read_json(results_file(name))


class MeasuredOnce:
    """
    Rows by the names of their cells in a JSON file, each measured once: a run that is stopped goes on where it was.

    facts: what decides the figures of all cells, written beside them. floats: the name under which the file keeps what the
    float models give, by model. Raises `InputError` where the file was measured with other facts.
    """

    def __init__(self, file: Path, facts: Mapping[str, Any], floats: str) -> None:
        self.file, self.facts, self._floats = file, facts, floats
        self.known = read_json(file)
        for name, value in facts.items():
            if self.known and self.known.get(name) != value:
                found = self.known.get(name)
                raise InputError(f"{file} was measured with {name} {found}, not {value}: name another --out")
        self.floats: dict[str, Any] = self.known.get(floats, {})
        self.rows: dict[str, Row] = self.known.get("rows", {})

    def add(self, cell: str, row: Row, **facts: Any) -> None:
        """Write the file with one more row, and with `facts` that may change from run to run."""
        self.rows[cell] = row
        self.file.parent.mkdir(parents=True, exist_ok=True)
        measured = {self._floats: self.floats, "rows": self.rows}
        write_json(self.file, describe_run() | dict(self.facts) | facts | measured)


def open_cells(file: Path, settings: Mapping[str, Any]) -> MeasuredOnce:
    """Return the cells of a file, with the top-1 of the float models; raise `SystemExit` where it has other `settings`."""
    try:
        return MeasuredOnce(file, {"settings": dict(settings)}, "float_top1")
    except InputError as error:
        raise SystemExit(str(error)) from error


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.strip() or "unknown"
