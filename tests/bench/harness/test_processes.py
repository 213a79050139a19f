"""Cells in processes of their own: from any folder, one row each, and what fails says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.harness import processes
from bench.harness.processes import last_row, peak_mib, row_of, run_module

ROWS = """
import json, os, sys
print("noise before")
print(json.dumps({"folder": os.getcwd(), "arguments": sys.argv[1:]}))
print("noise after")
if "--fail" in sys.argv:
    sys.exit("this is why")
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a root with a module ``rows``, while the working folder is another one."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "rows.py").write_text(ROWS)
    monkeypatch.setattr(processes, "ROOT", tmp_path / "root")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "root"


def test_a_process_starts_at_the_root_whatever_the_working_folder(root: Path) -> None:
    assert row_of("rows", "--cell", "a b") == {"folder": str(root), "arguments": ["--cell", "a b"]}


@pytest.mark.usefixtures("root")
def test_a_process_that_fails_says_why_though_it_printed_a_row() -> None:
    with pytest.raises(SystemExit, match=r"^rows --fail failed:\nthis is why"):
        row_of("rows", "--fail")
    with pytest.raises(SystemExit, match="No module named nothing"):
        row_of("nothing")


def test_a_process_without_a_row_has_failed(root: Path) -> None:
    (root / "rows.py").write_text("print('[1]')")
    with pytest.raises(SystemExit, match="rows failed"):
        row_of("rows")


def test_a_process_may_have_a_time_limit(root: Path) -> None:
    (root / "rows.py").write_text("import time; time.sleep(60)")
    with pytest.raises(subprocess.TimeoutExpired):
        run_module("rows", timeout=0.2)


def test_the_last_row_is_taken() -> None:
    assert last_row('{"a": 1}\n{"a": 2}\nend') == {"a": 2}
    assert last_row(' {"a": 1}\n[2]\n') is None


def test_the_peak_never_falls() -> None:
    before = peak_mib()
    held = bytearray(32 << 20)
    after = peak_mib()
    del held
    assert before <= after <= peak_mib()
    assert 1 < before < 2**20, f"MiB on {sys.platform}"
