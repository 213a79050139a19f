"""`bench.softmax_codes`: the forms differ by the placement that they are named after, and the table has their ratio."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from bench import softmax_codes
from bench.quality_tables import softmax_codes as table


def test_the_forms_are_what_they_are_called() -> None:
    placements = [fxquant.recipe("fqvit", **given).placement for given in softmax_codes.FORMS.values()]
    kinds = [(p.probabilities.dtype, p.residual == p.linear) for p in placements if p and p.probabilities]
    assert kinds == [("log4", False), ("log4", False), ("uint8", False), ("uint8", True)]


def test_rows_are_written_after_each_form(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[list[Any], dict[str, Any]]] = []

    def load(px: int, split: int, count: int) -> tuple[nn.Module, list[Tensor], Tensor, Tensor]:
        images = torch.zeros(count, 3, px, px)
        return nn.Identity(), [images], images, torch.zeros(count)

    def keep(name: str, rows: list[Any], **facts: Any) -> None:
        written.append(([*rows], facts))

    found = iter([(0.3, 50.0, 60.0), (0.25, 51.0, 60.0), (0.2, 58.0, 60.0), (0.15, 59.0, 60.0)])
    monkeypatch.setattr(softmax_codes, "load_probe", load)
    monkeypatch.setattr(softmax_codes, "measure", lambda *_: next(found))
    monkeypatch.setattr(fxquant, "quantize", lambda *_, **__: None)
    monkeypatch.setattr(softmax_codes, "write_results", keep)
    softmax_codes.main(["--images", "2", "--threads", str(torch.get_num_threads())])
    assert [len(rows) for rows, _ in written] == [1, 2, 3, 4]
    rows, facts = written[-1]
    text = table({"rows": rows, "date": "2026-11-29T00:00:00", **facts})
    assert "| log-int-softmax, 4 bits: `fqvit` | 0.300 | 2.0 | 50.0 |" in text
    assert "2 to read, 32 to calibrate; float top-1 60.0 %" in text
