"""What was measured is written, whatever comes after it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fxquant.errors import InputError
from fxquant.files import json_report


def measure_and_fail(file: Path, error: BaseException, **facts: float) -> None:
    with json_report(file) as report:
        report.update(facts)
        raise error


def test_a_step_that_fails_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    with json_report(file) as facts:
        facts["top1"] = 80.0
    assert json.loads(file.read_text()) == {"top1": 80.0}
    with pytest.raises(InputError, match="disk full"):
        measure_and_fail(file, InputError("disk full"), top1=81.0)
    assert json.loads(file.read_text()) == {"top1": 81.0, "error": "disk full"}
    with pytest.raises(KeyboardInterrupt):
        measure_and_fail(file, KeyboardInterrupt())  # nothing measured yet
    assert json.loads(file.read_text())["top1"] == 81.0


def test_no_file_is_asked_for_and_none_can_be_written(tmp_path: Path) -> None:
    with json_report(None) as facts:
        facts["a"] = 1
    with pytest.raises(InputError, match="cannot write"), json_report(tmp_path / "none" / "file.json") as facts:
        facts["a"] = 1
    with pytest.raises(ValueError, match="the first"):
        measure_and_fail(tmp_path / "none" / "file.json", ValueError("the first"), a=1)
    assert not list(tmp_path.iterdir())
