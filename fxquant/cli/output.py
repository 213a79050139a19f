"""What commands print and write: aligned tables, key lines, JSON files that are whole or not there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], text: Collection[int] = (0,)) -> str:
    """Return lines of columns, those of `text` aligned to the left and the others to the right."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = []
    for row in table:
        cells = [
            cell.ljust(w) if i in text else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print one line per fact, values aligned."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.ljust(width)}  {value}", flush=True)
