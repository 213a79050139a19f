"""docs/tutorial.md and docs/how-to.md run from their first blocks to their last, on a model and images that are small."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import fxquant
from tests.support import documents
from tests.support.folders import make_class

NAME, CLASSES = "vit_tiny_patch16_224", ("rose", "tulip")


@pytest.fixture
def flowers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Go to a folder with ``flowers.pth`` and ``flowers/``, where ViTs are small and nothing is compiled."""
    create = timm.create_model

    def small(name: str, **options: object) -> nn.Module:
        model: nn.Module = create(name, **{"depth": 1, "embed_dim": 32, "num_heads": 2, **options})
        return model

    monkeypatch.setattr(timm, "create_model", small)
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)  # which takes a minute
    monkeypatch.chdir(tmp_path)
    torch.save(small(NAME, num_classes=2).state_dict(), "flowers.pth")
    for part, count in (("train", 16), ("val", 3)):
        for hue, name in enumerate(CLASSES):
            make_class(tmp_path / "flowers" / part / name, count, hue)


@pytest.mark.long
@pytest.mark.usefixtures("flowers")
def test_the_tutorial_runs_and_so_do_the_answers(capsys: pytest.CaptureFixture[str]) -> None:
    found = documents.run("docs/tutorial.md")
    printed = capsys.readouterr().out
    assert "on int8" in printed
    assert "% as float" in printed
    assert len(found["calibration"]) == 32
    assert found["after"].count == 6
    assert "<script" in Path("flowers.html").read_text(encoding="utf-8")
    served = fxquant.load("flowers.safetensors")
    assert served.class_names == CLASSES
    assert torch.equal(served(found["pixels"]).argmax(1), found["classes"])

    answers = documents.run("docs/how-to.md", gm=served)
    assert "on int8" in capsys.readouterr().out
    again = answers["quantize"](NAME, "flowers.pth", "flowers", 2)
    assert torch.equal(again(found["pixels"]), served(found["pixels"]))
    files = found["evaluation"].files[:4]
    assert answers["Classifier"]("flowers.safetensors")(files) == [CLASSES[i] for i in found["classes"].tolist()]
