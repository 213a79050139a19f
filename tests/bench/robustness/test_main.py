"""Every case can be tried; its outcomes are rows of the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.harness.processes import run_module
from bench.harness.results import RESULTS
from bench.robustness import damaged_files, misuse
from bench.robustness.cases import CASES
from bench.robustness.outcomes import Outcomes
from bench.robustness.table import robustness


def test_outcomes_are_told_apart() -> None:
    found = Outcomes()
    for fine in (True, False, True):
        found.count(fine, "whole", "lost")
    row = {"text": "a case", "tried": 1003} | found.as_row()
    assert robustness({"rows": [row]}).splitlines() == [
        "| case | tried | result |",
        "| --- | ---: | --- |",
        "| a case | 1,003 | 2 whole; **1 lost** |",
    ]


def test_cases_without_other_processes(tmp_path: Path) -> None:
    assert damaged_files.cut(8, 0, tmp_path).as_row() == {"good": {"refused": 8}, "bad": {}}
    assert misuse.threads(8, 0, tmp_path).as_row() == {"good": {"the same logits": 8}, "bad": {}}


@pytest.mark.long
def test_quick_prints_rows_and_writes_nothing() -> None:
    before = {file: file.stat().st_mtime_ns for file in RESULTS.iterdir()}
    done = run_module("bench.robustness", "--quick", "--only", "save")
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    assert (row["case"], row["tried"], row["good"], row["bad"]) == ("save", 2, {"the file was whole": 2}, {})
    assert {file: file.stat().st_mtime_ns for file in RESULTS.iterdir()} == before


@pytest.mark.long
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name not in ("save", "nan")], ids=lambda case: case.name
)
def test_every_case_can_be_tried(case: object) -> None:
    name = getattr(case, "name", "")
    done = run_module("bench.robustness", "--case", name, "--tries", "2")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bad"] == {}
