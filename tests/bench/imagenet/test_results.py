"""The file of rows: nothing else is overwritten, and no dead process holds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.imagenet.__main__ import main
from bench.imagenet.results import ImagenetResults
from fxquant.errors import InputError
from fxquant.files import write_json


def test_a_file_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    for content in ("{", "[]", '{"rows": 1}'):
        file.write_text(content)
        assert main(["--data", str(tmp_path), "--out", str(file)]) == 2
        assert file.read_text() == content
    with pytest.raises(InputError, match="does not hold rows of this benchmark"):
        ImagenetResults(file).put("rows", "key", {})


def test_a_lock_that_a_killed_process_held_is_free(tmp_path: Path) -> None:
    (tmp_path / "out.json.lock").touch()
    write_json(tmp_path / "out.json", {"floats": {}, "rows": {"a": {"x": 1}}})
    ImagenetResults(tmp_path / "out.json").put("rows", "b", {"x": 2})
    assert ImagenetResults(tmp_path / "out.json").read()["rows"] == {"a": {"x": 1}, "b": {"x": 2}}
