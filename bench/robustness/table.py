"""The table of `docs/robustness.md`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.markdown import markdown


def robustness(results: Mapping[str, Any]) -> str:
    """Return a row for each case: what was done, how often, and what came of it; what should not have come is in bold."""
    rows = [[row["text"], f"{row['tried']:,}", _came_of_it(row)] for row in results["rows"]]
    return markdown(("case", "tried", "result"), rows, text=3).replace("| --- | --- | --- |", "| --- | ---: | --- |")


def _came_of_it(row: Mapping[str, Any]) -> str:
    good = [f"{number:,} {what}" for what, number in row["good"].items()]
    return "; ".join([*good, *(f"**{number:,} {what}**" for what, number in row["bad"].items())])
