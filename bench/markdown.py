"""Tables in Markdown, and the places in a page where they stand."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], text: int = 0) -> str:
    """Return a Markdown table; the first `text` columns are aligned to the left, the others to the right."""
    rule = ["---"] * text + ["---:"] * (len(header) - text)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def number(value: float | None, factor: float = 1.0, digits: int = 2) -> str:
    """Return ``value * factor`` with so many digits after the point; nothing for None."""
    return "" if value is None else f"{value * factor:.{digits}f}"


def put(text: str, name: str, block: str, page: str) -> str:
    """
    Return `text` with `block` between the lines ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Raises `SystemExit` naming `page` where these lines lack.
    """
    begin, end = f"<!-- {name}:begin -->\n", f"\n<!-- {name}:end -->"
    before, begun, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise SystemExit(f"expected the lines {begin.strip()} and {end.strip()} in {page}")
    return f"{before}{begin}{block}{end}{after}"
