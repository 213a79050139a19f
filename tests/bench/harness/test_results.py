"""The files of results: a row replaces itself alone, a cell is measured once, and figures of other facts do not mix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.harness.results import MeasuredOnce, RowsFile, open_cells, read_results, results_file
from fxquant.errors import InputError

FACTS = {"settings": {"images": 4}}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("bench.harness.results.RESULTS", tmp_path / "results")
    return tmp_path


def row(model: str, threads: int, ms: float = 1.0) -> dict[str, Any]:
    return {"model": model, "threads": threads, "ms": ms}


def figures(file: RowsFile) -> list[tuple[Any, ...]]:
    return [tuple(each.values()) for each in file.read()]


def test_a_row_takes_the_place_of_its_own_earlier_measurement_alone() -> None:
    file = RowsFile("some", ("model", "threads"), {"seed": 0})
    assert file.read() == []
    file.add(row("vit", 1, 1.0), row("vit", 2, 2.0), row("swin", 1, 3.0))
    file.add(row("vit", 1, 4.0))
    assert figures(file) == [("vit", 2, 2.0), ("swin", 1, 3.0), ("vit", 1, 4.0)]
    assert read_results("some")["seed"] == 0
    assert {"date", "commit", "environment"} <= read_results("some").keys()


def test_rows_stand_in_the_order_that_is_given() -> None:
    file = RowsFile("some", ("model", "threads"), order=lambda r: r["threads"])
    file.add(row("b", 2), row("a", 2), row("c", 1))
    file.add(row("b", 2, 5.0))
    assert figures(file) == [("c", 1, 1.0), ("a", 2, 1.0), ("b", 2, 5.0)]


@pytest.mark.parametrize(("kept", "asked", "known"), [(1, 2, False), (None, 2, False), (2, None, False), (2, 2, True)])
def test_rows_of_another_format_are_forgotten(kept: int | None, asked: int | None, known: bool) -> None:
    old, new = (RowsFile("some", ("model",), {"format": f} if f else {}) for f in (kept, asked))
    old.add(row("old", 1))
    assert bool(new.read()) == known
    new.add(row("new", 1))
    assert [each["model"] for each in new.read()] == (["old", "new"] if known else ["new"])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 2), st.integers(0, 9)), max_size=12))
def test_every_cell_has_its_last_figure_whatever_came_before(measured: list[tuple[str, int, int]]) -> None:
    file = RowsFile("random", ("model", "threads"))
    results_file("random").unlink(missing_ok=True)
    for model, threads, ms in measured:
        file.add(row(model, threads, ms))
    assert {(m, t): ms for m, t, ms in figures(file)} == {(m, t): ms for m, t, ms in measured}
    assert len(file.read()) == len({(m, t) for m, t, _ in measured})


def test_cells_are_found_again(folder: Path) -> None:
    file = folder / "new" / "cells.json"
    results = MeasuredOnce(file, FACTS, "float_top1")
    results.floats["vit"] = 90.0
    results.add("one", {"top1": 80.0}, images=3)
    again = MeasuredOnce(file, FACTS, "float_top1")
    assert (again.floats, again.rows) == ({"vit": 90.0}, {"one": {"top1": 80.0}})
    again.add("two", {"top1": 70.0})
    data = json.loads(file.read_text())
    assert list(data)[-3:] == ["settings", "float_top1", "rows"]
    assert list(data["rows"]) == ["one", "two"]


def test_figures_of_other_facts_do_not_mix(folder: Path) -> None:
    MeasuredOnce(folder / "cells.json", FACTS, "floats").add("one", {})
    with pytest.raises(InputError, match=r"measured with settings \{'images': 4\}, not \{'images': 5\}: name another"):
        MeasuredOnce(folder / "cells.json", {"settings": {"images": 5}}, "floats")
    MeasuredOnce(folder / "other.json", {"settings": {"images": 5}}, "floats")
    assert open_cells(folder / "cells.json", {"images": 4}).rows == {"one": {}}
    with pytest.raises(SystemExit, match="name another --out"):
        open_cells(folder / "cells.json", {"images": 5})


def test_an_interrupted_write_leaves_the_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = MeasuredOnce(folder / "cells.json", FACTS, "floats")
    results.add("one", {"top1": 1.0})
    with pytest.raises(ValueError, match="JSON compliant"):
        results.add("two", {"top1": float("nan")})
    assert list(MeasuredOnce(folder / "cells.json", FACTS, "floats").rows) == ["one"]
