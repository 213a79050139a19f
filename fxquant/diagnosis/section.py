"""One of the questions that a diagnosis answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Rows = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class DoctorSection:
    """
    What was found about one question.

    name: a word for it. title: the question. warnings: what should be seen to. lines: what else was found. header, rows: a
    table. left_out: why the question is not answered, None where it is. figures: what was measured, for JSON.
    """

    name: str
    title: str
    warnings: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    rows: Rows = ()
    left_out: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """Return the section for a terminal."""
        marked = [f"! {warning}" for warning in self.warnings]
        skipped = [] if self.left_out is None else [f"left out: {self.left_out}"]
        return "\n".join([self.title, *(f"  {line}" for line in [*marked, *skipped, *self.lines, *self._table()])])

    def _table(self) -> list[str]:
        rows = [self.header, *self.rows] if self.rows else []
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.header))] if rows else []
        return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        table = [dict(zip(self.header, row, strict=True)) for row in self.rows]
        return {
            "title": self.title,
            "warnings": list(self.warnings),
            "lines": list(self.lines),
            "table": table,
            "left_out": self.left_out,
            "figures": dict(self.figures),
        }
