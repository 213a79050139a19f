"""The notebooks of `examples/` are small, executed, clean of the machine that ran them, and written against public names."""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_pages import check_call
from tests.support import documents
from tests.support.notebooks import NOTEBOOKS

LIMIT = 100_000  # bytes of a notebook
# Of whoever ran it: folders, addresses of objects, and wheels that were found there.
_OF_A_MACHINE = re.compile(
    r"(?<![\w.:/])/(?:home|root|tmp|work|usr|opt|Users|mnt|var)/|site-packages|\bat 0x[0-9a-f]+|\\\\Users"
)


def cells(file: Path, kind: str) -> list[Any]:
    return [cell for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def code(file: Path) -> str:
    """Return the cells of a notebook as one text of Python."""
    lines = "\n".join("".join(cell["source"]) for cell in cells(file, "code"))
    return "\n".join(line for line in lines.splitlines() if not line.startswith("%"))


def test_all_are_listed_in_the_docs() -> None:
    assert len(NOTEBOOKS) == 8
    rows = next(rows for rows in documents.tables(documents.page("docs/examples.md")) if rows[0][0] == "notebook")
    found = [re.search(r"\(examples/(\w+)\.ipynb\)", row[0]) for row in rows[1:]]
    assert [link and link[1] for link in found] == [file.stem for file in NOTEBOOKS]
    assert all(what for _, what, _ in rows[1:])


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
class TestNotebook:
    def test_is_small_and_executed_in_order(self, file: Path) -> None:
        assert file.stat().st_size <= LIMIT
        ran = cells(file, "code")
        assert [cell["execution_count"] for cell in ran] == [*range(1, len(ran) + 1)], "run python -m tests.examples"
        outputs = [output for cell in ran for output in cell["outputs"]]
        assert len(outputs) >= 2
        assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
        for data in (output["data"] for output in outputs if "data" in output):
            assert "Figure size" not in "".join(data["text/plain"]) or "image/png" in data, "too large to be kept"

    def test_tells_nothing_of_a_machine(self, file: Path) -> None:
        notebook = json.loads(file.read_text(encoding="utf-8"))
        assert notebook["metadata"].keys() == {"kernelspec", "language_info"}
        assert all(not cell["metadata"] for cell in notebook["cells"])
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                output.get("data", {}).pop("image/png", None)
        assert not _OF_A_MACHINE.findall(json.dumps(notebook))

    def test_uses_public_names(self, file: Path) -> None:
        tree = ast.parse(code(file))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id != "self":
                assert not node.attr.startswith("_"), ast.unparse(node)
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("fxquant", "bench")):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, each.name) and each.name[0] != "_" for each in node.names), ast.unparse(node)
            if isinstance(node, ast.Call):
                check_call(node)

    def test_has_short_cells_with_text_before_them(self, file: Path) -> None:
        texts = cells(file, "markdown")
        assert "".join(texts[0]["source"]).startswith("# ")
        assert len(texts) >= len(cells(file, "code")) / 2
        for cell in cells(file, "code"):
            lines = [line for line in "".join(cell["source"]).splitlines() if line]
            assert len(lines) <= 30
            assert max(map(len, lines)) <= 120

    def test_links_resolve(self, file: Path) -> None:
        text = "\n".join("".join(cell["source"]) for cell in cells(file, "markdown"))
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            assert "://" in target or (file.parent / target).exists(), target
