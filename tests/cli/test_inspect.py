"""`fxquant inspect` writes one page, of a timm model or of a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fxquant
from fxquant.cli.main import main
from tests.support.models import Shared

SMALL = ["test_vit", "--img-size", "32", "--num-classes", "3", "--workers", "0", "--recipe", "minmax"]


def test_a_model_is_shown_float_prepared_and_int8(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FXQUANT_TRACE", raising=False)
    page, facts = tmp_path / "page.html", tmp_path / "page.json"
    data = ["--data", str(folder), "--calib", "6", "--images", "2"]
    assert (
        main(["inspect", *SMALL, *data, "--html", str(page), "--json", str(facts), "--time", "--passes", "--shares"])
        == 0
    )
    assert f"wrote {page}" in capsys.readouterr().out
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    shown = json.loads(facts.read_text(encoding="utf-8"))
    assert shown["title"].partition(".")[0] == "test_vit"
    assert shown["facts"]["quantised"] == "recipe minmax, W8A8"
    assert [stage["title"] for stage in shown["stages"]] == ["float", "prepared", "int8"]
    assert {"sqnr", "ms", "of_error"} <= shown["stages"][2]["cells"].keys()
    assert len(shown["images"]["pictures"]) == 2
    names = [each["name"] for each in shown["passes"]]
    assert names[0] == "fold_batch_norm", "the first listing is what the others start from"
    assert "lower_linear" in names


def test_a_saved_model_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved, page = tmp_path / "small.safetensors", tmp_path / "page.html"
    fxquant.save(fxquant.quantize(Shared().eval(), [torch.randn(4, 8)], recipe="minmax", progress=False), saved)
    assert main(["inspect", str(saved), "--html", str(page)]) == 0
    assert page.is_file()
    capsys.readouterr()
    assert main(["inspect", str(saved), "--html", str(page), "--time"]) == 2
    assert "--time needs the float model, which" in capsys.readouterr().err
    assert main(["inspect", str(saved), "--html", str(page), "--recipe", "ema"]) == 2
    assert "--recipe is for a timm model by name" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", *SMALL, "--calib", "noise:4", "--html", str(tmp_path / "no" / "page.html")]) == 2
    assert "its folder does not exist" in capsys.readouterr().err
    assert main(["inspect", *SMALL, "--html", str(tmp_path / "page.html"), "--images", "0", "--shares"]) == 2
    assert "--shares is measured on images: give --images 1 or more" in capsys.readouterr().err
