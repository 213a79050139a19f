"""`bench.mixed` writes parts and budgets, from which both tables are made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import mixed
from bench.quality_tables import mixed as budgets
from bench.quality_tables import sensitivity
from tests.support.models import images, small_vit


@pytest.mark.long
def test_parts_and_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, Any] = {}

    def load(px: int, split: int, count: int) -> tuple[nn.Module, list[Tensor], Tensor, Tensor]:
        return small_vit().eval(), [images()], images(count), torch.zeros(count, dtype=torch.long)

    monkeypatch.setattr(mixed, "load_probe", load)
    monkeypatch.setattr(mixed, "BUDGETS", ("mean_bits=7",))
    monkeypatch.setattr(
        mixed, "write_results", lambda name, rows, **facts: written.update(facts, name=name, rows=[*rows])
    )
    mixed.main(["--images", "2", "--threads", str(torch.get_num_threads())])
    data = written | {"date": "2026-11-29T00:00:00"}
    assert written["name"] == "mixed"
    assert [row["budget"] for row in written["rows"]] == [None, "mean_bits=7"]
    assert "| `blocks.*.mlp.fc2.input` | 0." in sensitivity(data)
    assert "| `minmax` W6A6 | 6.00 | 0." in budgets(data)
    assert "| `mean_bits=7` | " in budgets(data)
