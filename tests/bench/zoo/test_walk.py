"""A walk through all verbs gives a row, whatever happens on the way."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import fxquant
from bench.zoo.entry import Entry, images
from bench.zoo.walk import OUTPUTS_FILE, count_macs, give_values, is_saved, walk
from fxquant.errors import FxquantError


class Model(nn.Module):
    """A convolution and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.head(self.conv(x).mean((2, 3)))}


ENTRY = Entry("own", "Model", "model", Model, partial(images, size=8))
MACS = 2 * (8 * 4 * 48 + 8 * 4)  # of two images


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)


def test_a_small_model_reaches_the_end(tmp_path: Path) -> None:
    row = walk(ENTRY, tmp_path)
    assert "stopped" not in row
    assert (row["source"], row["family"], row["model"]) == ("own", "Model", "model")
    assert (row["capture"], row["verified"], row["coverage"]) == ("symbolic", True, 1.0)
    assert row["macs"] == row["counted_macs"] == MACS
    assert row["sqnr_db"] > 20
    assert is_saved(tmp_path)


def test_other_bits_are_seen(tmp_path: Path) -> None:
    walk(ENTRY, tmp_path)
    example = torch.load(tmp_path / OUTPUTS_FILE)
    example["outputs"][0][0, 0] += 1e-6
    torch.save(example, tmp_path / OUTPUTS_FILE)
    assert not is_saved(tmp_path)


def test_an_error_is_kept_with_its_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: nn.Module) -> nn.Module:
        raise FxquantError('no\nsuch layer, at /home/a/site-packages/timm/vit.py:1: "x"')

    monkeypatch.setattr(fxquant, "convert", fail)
    row = walk(ENTRY, tmp_path)
    assert row["stopped"] == 'convert: FxquantError: no\nsuch layer, at timm/vit.py:1: "x"'
    assert row["verified"] is True
    assert "coverage" not in row


def test_attention_is_counted_on_the_slow_path() -> None:
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    products = 4 * (4 * 8 * 8) + 2 * (4 * 4 * 8) + 2 * (4 * 8 * 16)
    assert count_macs(attention, (torch.randn(1, 4, 8),)) == products


def test_only_parameters_that_hide_a_layer_get_a_value() -> None:
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zero, self.small = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.full((3,), 1e-5))
            self.one, self.none = nn.Parameter(torch.ones(3)), nn.Parameter(torch.empty(0))

    model = Scales()
    give_values(model)
    assert model.zero.abs().min() > 0
    assert model.small.tolist() == pytest.approx([0.1] * 3)
    assert model.one.tolist() == [1.0] * 3
