"""`bench.float8`: each recipe with both kinds of codes, each form once, and a table that says which is which."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxquant
from bench import float8
from bench.quality_tables import float8 as table


def test_rows_are_kept_and_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str, bool]] = []

    def load(px: int, split: int, count: int) -> tuple[nn.Module, list[Tensor], Tensor, Tensor]:
        images = torch.zeros(count, 3, px, px)
        return nn.Identity(), [images], images, torch.zeros(count)

    def quantize(
        model: nn.Module, batches: list[Tensor], recipe: str, progress: bool, codes: str, patch_embed: bool
    ) -> None:
        asked.append((recipe, codes, patch_embed))

    monkeypatch.setattr("bench.harness.results.RESULTS", tmp_path)
    monkeypatch.setattr(float8, "load_probe", load)
    monkeypatch.setattr(float8, "measure", lambda *_: (0.12345, 66.61, 68.0))
    monkeypatch.setattr(fxquant, "quantize", quantize)
    arguments = ["--images", "2", "--threads", str(torch.get_num_threads())]
    float8.main(arguments)
    float8.main(arguments)
    assert asked == [*float8.FORMS]
    float8.main([*arguments, "--again"])
    assert len(asked) == 2 * len(float8.FORMS) == 16
    text = table(json.loads((tmp_path / "float8.json").read_text()))
    assert "| `minmax` | int8 | quantised | 0.123 | 66.6 |" in text
    assert "| `default` | e4m3 | float | 0.123 | 66.6 |" in text
    assert "2 to read, 32 to calibrate; float top-1 68.0 %" in text
