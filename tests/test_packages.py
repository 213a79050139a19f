"""What is shipped is what is there: the package list, the passes' two places, the public names."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import fxquant
import fxquant.passes

ROOT = Path(fxquant.__file__).parents[1]
try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = pytest.importorskip("tomli")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def test_every_package_is_listed(project: dict[str, Any]) -> None:
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "fxquant").rglob("__init__.py")}
    found.add("fxquant.passes")  # a symlink, which rglob may or may not follow
    listed = project["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(found)
    assert listed == sorted(listed)


def test_every_module_is_in_a_package() -> None:
    folders = {p.parent for p in (ROOT / "fxquant").rglob("*.py")} | {ROOT / "passes"}
    assert [str(f) for f in folders if not (f / "__init__.py").exists()] == []


def test_passes_stand_at_the_top_and_are_imported_below_fxquant(project: dict[str, Any]) -> None:
    assert project["tool"]["setuptools"]["package-dir"] == {"fxquant.passes": "passes"}
    link = ROOT / "fxquant" / "passes"
    assert link.is_symlink()
    assert link.readlink() == Path("../passes")
    assert (ROOT / "passes" / "__init__.py").is_file()


def test_importing_passes_by_the_other_name_is_banned(project: dict[str, Any]) -> None:
    ruff = project["tool"]["ruff"]["lint"]
    assert "TID251" in ruff["select"]
    assert "fxquant.passes" in ruff["flake8-tidy-imports"]["banned-api"]["passes"]["msg"]
    for file in [*(ROOT / "fxquant").rglob("*.py"), *(ROOT / "passes").glob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        assert not re.search(r"^\s*(from|import) passes\b", file.read_text(), re.MULTILINE), file


def test_each_pass_is_one_file_with_one_test_file() -> None:
    names = sorted(p.stem for p in (ROOT / "passes").glob("*.py") if p.stem != "__init__")
    assert names
    for name in names:
        source = ast.parse((ROOT / "passes" / f"{name}.py").read_text())
        public = {n.name for n in source.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        assert name in {re.sub(r"(?<=.)(?=[A-Z])", "_", p).lower() for p in public}, (
            f"{name}.py holds no pass of its name"
        )
        assert (ROOT / "tests" / "passes" / f"test_{name}.py").is_file(), f"{name} has no test file"


def test_the_public_names_are_those_that_are_there() -> None:
    source = ast.parse(Path(fxquant.__file__).read_text())
    typed = next(node for node in source.body if isinstance(node, ast.If))
    imported = {a.name: n.module for n in typed.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert set(fxquant.__all__) == imported.keys()
    homes = {name: f"fxquant.{module}" for module, names in fxquant._HOMES.items() for name in names.split()}
    assert {name: module for name, module in imported.items() if name != "models"} == homes
    assert fxquant.__all__ == sorted(fxquant.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert all(getattr(fxquant, name).__doc__ for name in fxquant.__all__)


def test_the_version_is_the_same_everywhere(project: dict[str, Any]) -> None:
    assert fxquant.__version__ == project["project"]["version"]


def test_typed_and_data_files_are_shipped(project: dict[str, Any]) -> None:
    for package, patterns in project["tool"]["setuptools"]["package-data"].items():
        folder = ROOT.joinpath(*package.split("."))
        for pattern in patterns:
            assert list(folder.glob(pattern)), f"{package}: no {pattern}"
