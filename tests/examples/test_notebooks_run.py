"""Every notebook of `examples/` runs from its first cell to its last: `make test-notebooks` installs what they need."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.notebooks import NOTEBOOKS, execute


@pytest.mark.notebook
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_runs(file: Path) -> None:
    execute(file)
