"""The script and the style that pages embed are those that `make page` builds of web/, with the licences of what is in them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WEB, PAGE = ROOT / "web", ROOT / "fxquant" / "inspection" / "page"
BUILT = json.loads((PAGE / "built.json").read_text(encoding="utf-8"))
LOCK: dict[str, Any] = json.loads((WEB / "package-lock.json").read_text(encoding="utf-8"))["packages"]


@pytest.mark.parametrize(("folder", "files"), [(WEB, BUILT["sources"]), (PAGE, BUILT["outputs"])], ids=["web", "page"])
def test_nothing_changed_since_it_was_built(folder: Path, files: dict[str, str]) -> None:
    found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    assert found == files, "run make page"


def test_every_source_was_built() -> None:
    names = {f"src/{file.name}" for file in (WEB / "src").iterdir()}
    assert names | {"build.mjs", "package.json", "package-lock.json"} == BUILT["sources"].keys()


def test_the_licence_of_every_library_is_kept() -> None:
    embedded = {name.removeprefix("node_modules/"): each for name, each in LOCK.items() if name and not each.get("dev")}
    text = (PAGE / "licences.txt").read_text(encoding="utf-8")
    assert {"echarts", "tabulator-tables"} <= embedded.keys()
    for name, each in embedded.items():
        assert f"{name} {each['version']}, {each['license']}\n" in text


def test_the_lock_names_no_registry() -> None:
    assert not [name for name, each in LOCK.items() if "resolved" in each]
    assert all("integrity" in each for name, each in LOCK.items() if name)


def test_the_script_stays_inside_its_element() -> None:
    assert "</script" not in (PAGE / "page.js").read_text(encoding="utf-8").lower()
    assert "</style" not in (PAGE / "page.css").read_text(encoding="utf-8").lower()
