"""A cell of the accuracy benchmark gives every figure, on images that follow the seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.accuracy import measure as module
from bench.accuracy.measure import draw_calibration, measure, measure_float, write_data
from tests.bench.accuracy.making import IMAGES, cell, drawn, tiny_model
from tests.support.tiers import keep_quick


@pytest.mark.parametrize(
    ("name", "outliers"),
    keep_quick([("minmax", "without"), ("noisyquant_ptq4vit", "with")], ("minmax", "without")),
)
def test_a_cell_gives_every_figure(name: str, outliers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_standin", tiny_model)
    monkeypatch.setattr(module, "load_part", drawn)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    assert write_data(tmp_path, IMAGES) == IMAGES
    baseline = measure_float(tmp_path, "vit", outliers)
    row = measure(cell(name, outliers), tmp_path, 8, 1)
    assert 0 <= baseline["top1"] <= 100
    assert abs(row["top1"] - baseline["top1"]) <= 100 - row["agreement"] + 1e-3
    assert row["sqnr_db"] > 5
    assert row["int8_agreement"] > 80
    assert row["seconds"] > 0
    assert row["memory_mib"] >= 0
    later = measure(cell(name, outliers, seed=1), tmp_path, 8, 1)
    assert "int8_top1" not in later
    assert later["sqnr_db"] != row["sqnr_db"]


def test_calibration_images_follow_the_seed() -> None:
    images = torch.arange(40.0).view(40, 1, 1, 1)
    assert torch.equal(draw_calibration(images, 8, 1), draw_calibration(images, 8, 1))
    assert not torch.equal(draw_calibration(images, 8, 1), draw_calibration(images, 8, 2))
    assert len(draw_calibration(images, 40, 0).unique()) == 40
