"""What `fxquant quantize` saved goes through every command that takes a file, with what it says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import fxquant
from fxquant.cli.main import main
from fxquant.data import read_images
from tests.support.folders import CLASSES, MODEL, VAL

SIZE = ["--img-size", "32", "--num-classes", "3", "--workers", "0"]
OWN = ["--mean", "0.4", "0.5", "0.6", "--std", "0.2", "--interpolation", "bilinear", "--crop-pct", "1"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return weights of a small ViT, which are not trained."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(timm.create_model(MODEL, img_size=32, num_classes=3).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def file(folder: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("saved") / "own.safetensors"
    source = ["quantize", MODEL, "--data", str(folder), "--checkpoint", str(checkpoint), *SIZE, *OWN]
    assert main([*source, "--recipe", "minmax", "--calib", "9", "--out", str(out)]) == 0
    return out


def test_the_file_says_how_it_was_made(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gm = fxquant.load(file)
    assert gm.data_config == fxquant.DataConfig((3, 32, 32), (0.4, 0.5, 0.6), (0.2,) * 3, "bilinear", 1.0)
    assert gm.class_names == CLASSES
    assert gm.card.recipe == fxquant.UsedRecipe("minmax", 8, 8)
    assert main(["report", str(file)]) == 0
    printed = capsys.readouterr().out
    assert f"{file.stat().st_size / 1e6:.2f} MB" in printed
    assert "classes    3: cat, dog, eel" in printed
    report = fxquant.report(gm)
    assert str(report) in printed
    assert main(["report", str(file), "--json", "-"]) == 0
    found, text = capsys.readouterr()
    told = json.loads(found)
    assert text == printed
    assert (told["size_bytes"], told["int8_coverage"]) == (file.stat().st_size, report.coverage)
    assert [product["name"] for product in told["products"]] == [record.name for record in report]
    assert told["card"]["class_names"] == list(CLASSES)


def test_eval_uses_the_preprocessing_of_the_file(
    file: Path, folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, one, other = tmp_path / "eval.safetensors", tmp_path / "one.json", tmp_path / "other.json"
    source = ["eval", MODEL, "--data", str(folder), "--checkpoint", str(checkpoint), *SIZE, *OWN, "--recipe", "minmax"]
    assert main([*source, "--calib", "9", "--save", str(saved), "--json", str(one)]) == 0
    assert main(["eval", str(file), "--data", str(folder), "--workers", "0", "--json", str(other)]) == 0
    wanted, again = (json.loads(f.read_text())["results"]["quantised"] for f in (one, other))
    assert again["top1_percent"] == wanted["top1_percent"]
    assert again["images"] == 3 * VAL
    assert again["size_bytes"] == file.stat().st_size
    assert wanted["size_bytes"] == saved.stat().st_size
    assert fxquant.load(saved).card.accuracy == fxquant.MeasuredAccuracy(
        wanted["top1_percent"], json.loads(one.read_text())["results"]["float"]["top1_percent"], 3 * VAL, folder.name
    )
    capsys.readouterr()
    given = ["--data", str(folder), "--workers", "0", "--limit", "3", "--mean", "0.5", "--json", "-"]
    assert main(["eval", str(saved), *given]) == 0
    found, text = capsys.readouterr()
    assert json.loads(found)["results"]["quantised"]["images"] == 3
    assert "mean (0.5, 0.5, 0.5)" in text
    assert "then       top-1" in text
    assert "\r" not in text  # no bars where there is no terminal


def test_classes_go_by_their_names(
    file: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part"
    part.mkdir()
    for name in ("eel", "dog"):
        (part / name).symlink_to(folder / "val" / name)
    written = tmp_path / "part.json"
    assert main(["eval", str(file), "--data", str(part), "--workers", "0", "--json", str(written)]) == 0
    gm = fxquant.load(file)
    assert gm.data_config is not None
    images = read_images(sorted((folder / "val").glob("[de]*/*.png")), gm.data_config)
    labels = torch.tensor([1] * VAL + [2] * VAL)
    top1 = 100 * (gm(images).argmax(1) == labels).double().mean().item()
    assert json.loads(written.read_text())["results"]["quantised"]["top1_percent"] == pytest.approx(top1)
    (part / "fox").symlink_to(folder / "val" / "cat")
    assert main(["eval", str(file), "--data", str(part)]) == 2
    assert "(cat, dog, eel), which has no class 'fox'" in capsys.readouterr().err


def test_predict_names_the_likeliest_classes(file: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [folder / "val" / name / "0.png" for name in CLASSES]
    assert main(["predict", str(file), *map(str, files), "--top-k", "2", "--batch-size", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    gm = fxquant.load(file)
    assert gm.data_config is not None
    logits = gm(read_images(files, gm.data_config))
    assert [p["image"] for p in found["predictions"]] == list(map(str, files))
    for row, prediction in zip(logits.softmax(1), found["predictions"], strict=True):
        assert [c["name"] for c in prediction["classes"]] == [CLASSES[i] for i in row.topk(2).indices]
        assert prediction["classes"][0]["probability"] == pytest.approx(float(row.max()), abs=1e-6)


@pytest.mark.long
def test_bench_times_the_graph_in_the_file(file: Path, tmp_path: Path) -> None:
    written = tmp_path / "bench.json"
    given = ["bench", str(file), "--batch", "2", "--rounds", "1", "--competitors", "fxquant", "--json", str(written)]
    assert main(given) == 0
    data = json.loads(written.read_text())
    assert data["model"]["card"]["class_names"] == list(CLASSES)
    assert [r["name"] for r in data["batches"][0]["results"]] == ["fxquant"]
    assert data["batches"][0]["results"][0]["p50_ms"] > 0


@pytest.mark.parametrize(
    "given",
    [
        ["eval", "--data", ".", "--recipe", "minmax"],
        ["eval", "--data", ".", "--pretrained"],
        ["eval", "--data", ".", "--num-classes", "3"],
        ["bench", "--w-bits", "4"],
    ],
)
def test_options_of_models_by_name_are_refused(
    given: list[str], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([given[0], str(file), *given[1:]]) == 2
    assert "is a saved model, whose weights and quantisation are fixed" in capsys.readouterr().err


def test_a_saved_model_has_no_competitors(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(file), "--competitors", "fp32"]) == 2
    assert "holds no float model" in capsys.readouterr().err


def test_other_commands_want_a_name(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(file), "--calib", "noise:4", "--out", str(tmp_path / "out.safetensors")]) == 2
    assert "expected a timm model by name, got the file" in capsys.readouterr().err


class Features(torch.nn.Module):
    """Gives a map of features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


def test_what_predict_cannot_tell_is_refused(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, bare = tmp_path / "a.png", tmp_path / "bare.safetensors"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    fxquant.save(fxquant.quantize(Features().eval(), [torch.randn(4, 3, 16, 16)], "minmax"), bare)
    normal = ["--mean", "0.5", "--std", "0.5"]
    for given, message in (
        ([file, tmp_path / "none.png"], "does not exist"),
        ([file, tmp_path], "is a folder"),
        ([MODEL, image], "expected a .safetensors file"),
        ([bare, image], "does not say how images are prepared: give --mean and --std, or"),
        ([bare, image, *normal], "expected logits (B, classes), the model gave a tensor (1, 4, 4, 4)"),
        ([file, image, "--mean", "0.5", "0.5"], "mean needs a number for each of 3 channels, got 2"),
    ):
        assert main(["predict", *map(str, given)]) == 2
        assert message in capsys.readouterr().err


def test_quantising_without_data(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, names, images = tmp_path / "out.safetensors", tmp_path / "names.txt", tmp_path / "images.pt"
    names.write_text("b\na\nc\n")
    torch.save(torch.randn(4, 3, 32, 32), images)
    common = ["quantize", MODEL, "--checkpoint", str(checkpoint), *SIZE, "--recipe", "minmax", "--out", str(out)]
    assert main([*common, "--calib", str(images), "--class-map", str(names)]) == 0
    assert fxquant.load(out).class_names == ("b", "a", "c")
    assert main(common) == 2
    assert "--calib real:32 draws images from a folder: give --data DIR" in capsys.readouterr().err
    names.write_text("a\nb\n")
    assert main([*common, "--calib", "noise:4", "--class-map", str(names)]) == 2
    assert "expected 3 names, one for each class of the model, found 2" in capsys.readouterr().err
