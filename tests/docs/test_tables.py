"""Every table of the docs is what its results give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import tables
from bench.harness.results import RESULTS
from bench.markdown import markdown, number, put
from bench.tables import TABLES, Table
from tests.support import documents

LISTINGS = ("graph", "trace", "prepare", "fake", "int8")  # graphs: see the other tests


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_the_table_is_what_its_results_give(table: Table) -> None:
    assert documents.between(table.page, table.name) == tables.rendered(table), "run python -m bench.tables"


def test_every_marker_is_known() -> None:
    found = {(page, name) for page in documents.PAGES for name in documents.marked(page) if name not in LISTINGS}
    assert found == {(table.page, table.name) for table in TABLES}
    names = [name for page in documents.PAGES for name in documents.marked(page)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("page", "module"), [("docs/accuracy.md", "bench.accuracy.table")])
def test_the_page_is_what_its_results_give(page: str, module: str) -> None:
    rows = json.loads((RESULTS / "accuracy.json").read_text(encoding="utf-8"))
    assert documents.page(page) == pytest.importorskip(module).render(rows)


def test_the_zoo_is_what_its_results_give() -> None:
    zoo: dict[str, Any] = json.loads((RESULTS / "zoo.json").read_text(encoding="utf-8"))
    render = pytest.importorskip("bench.zoo.table").render
    assert documents.page("docs/zoo.md") == render(zoo["rows"], zoo["libraries"])


def test_pages_are_written_where_they_differ(tmp_path: Path) -> None:
    for page in dict.fromkeys(table.page for table in TABLES):
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text(documents.page(page), encoding="utf-8")
    readme = tmp_path / "README.md"
    readme.write_text(put(documents.page("README.md"), "latency", "old", "README.md"), encoding="utf-8")
    before = (tmp_path / "docs" / "training.md").stat().st_mtime_ns
    tables.write_pages(tmp_path)
    assert readme.read_text(encoding="utf-8") == documents.page("README.md")
    assert (tmp_path / "docs" / "training.md").stat().st_mtime_ns == before


def test_what_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"expected the lines <!-- x:begin --> and <!-- x:end --> in README\.md"):
        put("text", "x", "block", "README.md")
    with pytest.raises(SystemExit, match=r"latency\.json is missing"):
        tables.rendered(TABLES[0], tmp_path)


def test_markdown_has_a_line_per_row() -> None:
    text = markdown(("name", "ms"), [["a", number(0.0015, 1e3, 1)], ["b", number(None)]], text=1)
    assert text.splitlines() == ["| name | ms |", "| --- | ---: |", "| a | 1.5 |", "| b |  |"]
