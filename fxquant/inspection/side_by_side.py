"""The rows of several graphs of one model in one order, those that correspond beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fxquant.inspection.graph_rows import GraphRow, Key


@dataclass(frozen=True)
class SharedRow:
    """One row of all graphs: cells has what each graph has there, None where it has nothing; `name` and `module` are shown."""

    key: Key
    module: str
    name: str
    cells: tuple[GraphRow | None, ...]


def side_by_side(graphs: Sequence[Sequence[GraphRow]]) -> list[SharedRow]:
    """
    Return the rows of all `graphs` in the order of the first, each one that it lacks behind the row that it follows elsewhere.

    Rows of one key stand beside each other.
    """
    order: list[Key] = []
    known: dict[Key, dict[int, GraphRow]] = {}
    for index, rows in enumerate(graphs):
        fresh: dict[Key | None, list[Key]] = {}
        last: Key | None = None
        for row in rows:
            if row.key in known:
                last = row.key
            else:
                fresh.setdefault(last, []).append(row.key)
            known.setdefault(row.key, {}).setdefault(index, row)
        before = fresh.pop(None, [])
        order = [*before, *(key for old in order for key in (old, *fresh.get(old, ())))]
    return [_shared(key, known[key], len(graphs)) for key in order]


def _shared(key: Key, found: dict[int, GraphRow], count: int) -> SharedRow:
    first = next(iter(found.values()))
    return SharedRow(key, first.module, first.name, tuple(found.get(index) for index in range(count)))
