"""A table of records, for people, for pandas and for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Generic, TypeVar

from fxquant.errors import InputError
from fxquant.inspection.html import fill

Record = TypeVar("Record")


class RecordTable(Generic[Record]):
    """
    Records of one dataclass, in order: iterate over it for the records, print it for a table, or let a notebook show it.

    Subclasses say what stands in the table, in `header`, `summary` and `cells`.
    """

    header: tuple[str, ...] = ()

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = tuple(records)

    def summary(self) -> list[str]:
        """Return the lines above the table."""
        return []

    def cells(self, record: Record) -> tuple[str, ...]:
        """Return what stands in the line of `record`, a cell for each of `header`."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __str__(self) -> str:
        rows = [self.header, *map(self.cells, self.records)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.header))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*self.summary(), *lines])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return fill("table.html.jinja", lines=self.summary(), header=self.header, rows=map(self.cells, self.records))

    def to_dict(self) -> dict[str, Any]:
        """Return the records as dictionaries under "records", for JSON."""
        return {"records": [asdict(each) for each in self.records]}  # type: ignore[call-overload]

    def to_frame(self) -> Any:
        """Return the records as a ``pandas.DataFrame``, a row for each; raise `InputError` where pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise InputError(
                "to_frame needs pandas, which is not installed: pip install pandas, or use to_dict()"
            ) from None
        return pandas.DataFrame(self.to_dict()["records"])


def new_axes(height: float) -> Any:
    """Return the axes of a new figure of matplotlib, `height` inches high; raise `InputError` where it is not installed."""
    try:
        from fxquant.precision.shown_figure import ShownFigure
    except ImportError:
        raise InputError("a plot needs matplotlib, which is not installed: pip install 'fxquant[plot]'") from None
    return ShownFigure(figsize=(8.0, height), layout="constrained").subplots()


def shown(value: float | None, form: str) -> str:
    """Return `value` in the format `form`, nothing for None."""
    return "" if value is None else format(value, form)
