"""`bench.float8`: each recipe with both kinds of codes, and a table that says which is which."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from bench import float8
from bench.quality_tables import float8 as table


def test_every_recipe_has_both_kinds_of_codes() -> None:
    kinds = {(recipe, given.get("codes")) for recipe, given in float8.FORMS}
    assert kinds == {(recipe, codes) for recipe, _ in float8.FORMS for codes in (None, "e4m3")}


def test_rows_are_written_after_each_form(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[list[Any], dict[str, Any]]] = []

    def load(px: int, split: int, count: int) -> tuple[nn.Module, list[Tensor], Tensor, Tensor]:
        images = torch.zeros(count, 3, px, px)
        return nn.Identity(), [images], images, torch.zeros(count)

    monkeypatch.setattr(float8, "load_probe", load)
    monkeypatch.setattr(float8, "measure", lambda *_: (0.12345, 66.61, 68.0))
    monkeypatch.setattr(fxquant, "quantize", lambda *_, **__: None)
    monkeypatch.setattr(float8, "write_results", lambda name, rows, **facts: written.append(([*rows], facts)))
    float8.main(["--images", "2", "--threads", str(torch.get_num_threads())])
    assert [len(rows) for rows, _ in written] == list(range(1, len(float8.FORMS) + 1))
    rows, facts = written[-1]
    text = table({"rows": rows, "date": "2026-11-29T00:00:00", **facts})
    assert "| `minmax` | int8 | quantised | 0.123 | 66.6 |" in text
    assert "| `minmax` | e4m3 | float | 0.123 | 66.6 |" in text
    assert "2 to read, 32 to calibrate; float top-1 68.0 %" in text
