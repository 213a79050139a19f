"""`bench.qat`: cells are measured once, on the same images for each method, and the table has the mean of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fxquant
from bench import qat
from bench.quality_tables import METHODS
from bench.quality_tables import qat as table
from bench.standins import CLASSES, Glyphs, build_standin
from fxquant.distillation import SoftTargets
from tests.support.tiers import keep_quick


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(name: str) -> torch.nn.Module:
        torch.manual_seed(0)
        return build_standin(name).eval()

    monkeypatch.setattr(qat, "load_standin", build)


@pytest.mark.usefixtures("untrained")
@pytest.mark.long
def test_cells_are_measured_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.json"
    arguments = [
        "--models",
        "vit",
        "--methods",
        "ptq-omse",
        "lsq",
        "vvtq",
        "--bits",
        "3",
        "--seeds",
        "0",
        "--images",
        "16",
    ]
    arguments += ["--epochs", "2", "--batch-size", "4", "--limit", "62", "--threads", "1"]
    arguments += ["--out", str(out)]
    qat.main(arguments)
    data = json.loads(out.read_text())
    assert set(data["rows"]) == {f"vit W3A3 {method} seed 0" for method in ("ptq-omse", "lsq", "vvtq")}
    assert all(0 <= row["top1"] <= 100 for row in data["rows"].values())
    text = table(data)
    assert text.count("(1)") == 3
    assert "| vit | float |" in text
    capsys.readouterr()
    qat.main(arguments)
    assert not capsys.readouterr().out
    with pytest.raises(SystemExit, match="name another --out"):
        qat.main([*arguments, "--lr", "0.1"])


def test_every_method_has_a_name() -> None:
    assert list(qat.METHODS) == list(METHODS)


def test_epochs_go_through_the_images() -> None:
    images, labels = torch.arange(10.0).reshape(10, 1, 1, 1), torch.arange(10) % CLASSES
    epochs = qat.GlyphEpochs(Glyphs(images, labels), 4, torch.eye(CLASSES)[labels])
    epochs.set_epoch(1)
    batch, targets = epochs.collate([epochs[i] for i in range(len(epochs))])
    assert batch.flatten().tolist() == [4, 5, 6, 7]
    assert isinstance(targets, SoftTargets)
    assert torch.allclose(targets.dense(), torch.eye(CLASSES)[4:8], atol=1e-6)
    plain = qat.GlyphEpochs(Glyphs(images, labels), 4, None)
    assert plain.collate([plain[0], plain[3]])[1].tolist() == [0, 3]


@pytest.mark.parametrize("recipe", keep_quick(["omse", "ptq4vit"], "omse"))
def test_calibrated_models_keep_eight_bits_at_both_ends(recipe: str) -> None:
    torch.manual_seed(0)
    prepared = fxquant.prepare(build_standin("swin").eval(), qat.ptq_config(recipe, 3))
    for record in fxquant.report(prepared).records:
        trunk = record.name == "patch_embed.proj" or "reduction" in record.name or record.name.startswith("head")
        weight = record.operands[1].dtype
        assert weight == ("int8" if trunk else weight)
        assert trunk or "8" not in weight
