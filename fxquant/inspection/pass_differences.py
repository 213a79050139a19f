"""What each pass added, removed and changed, read from the folder that FXQUANT_TRACE names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fxquant.errors import InputError

# A line of a printed graph: the node, its dtype and shape if known, the call, and then the names that are not read again.
_LINE = re.compile(r'\s+(\w+)(: "[^"]*")? = (.*?)(?:;  [\w = ]* = None)?$')


@dataclass(frozen=True)
class PassDifference:
    """One pass: the lines of nodes that it `added` and `removed`, and those that it `changed`, before and after."""

    name: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[tuple[str, str], ...]


def pass_differences(folder: Path) -> list[PassDifference]:
    """
    Return what each pass did, in the order in which they ran; the first file is what the others start from.

    Raises `InputError` where `folder` holds no listings of graphs.
    """
    files = sorted(folder.glob("[0-9]*_*.txt"), key=lambda file: int(file.stem.partition("_")[0]))
    if not files:
        raise InputError(
            f"expected the listings that FXQUANT_TRACE={folder} writes while a model is traced and converted, found none there"
        )
    listings = [(file.stem.partition("_")[2], _nodes(file.read_text(encoding="utf-8"))) for file in files]
    return [_difference(name, before, after) for (_, before), (name, after) in pairwise(listings)]


def _difference(name: str, before: dict[str, str], after: dict[str, str]) -> PassDifference:
    return PassDifference(
        name,
        added=tuple(line for node, line in after.items() if node not in before),
        removed=tuple(line for node, line in before.items() if node not in after),
        changed=tuple(
            (before[node], line)
            for node, line in after.items()
            if node in before and _call(before[node]) != _call(line)
        ),
    )


def _call(line: str) -> str:
    """Return a line without what is known of its value, which running the graph adds."""
    return re.sub(r': "[^"]*"', "", line, count=1)


def _nodes(listing: str) -> dict[str, str]:
    matches = (_LINE.match(line) for line in listing.splitlines())
    return {m[1]: f"{m[1]}{m[2] or ''} = {m[3]}" for m in matches if m is not None}
