"""`fxquant train`: what it says of a model, what it keeps, and that it goes on."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import fxquant
from fxquant.cli import train
from fxquant.cli.main import main
from fxquant.training import AugmentedImages, TrainingOptions
from fxquant.training.schedule import plan_passes
from fxquant.training.state_file import read_state
from tests.support.folders import CLASSES, MODEL, load_folder

SMALL = ["--img-size", "32", "--num-classes", "3", "--workers", "0", "--threads", "1"]
TRAINING = ["--epochs", "2", "--batch-size", "8", "--ema-decay", "0.5"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return float weights to start from."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(timm.create_model(MODEL, img_size=32, num_classes=3).state_dict(), file)
    return file


def run(folder: Path, *arguments: object) -> int:
    return main(["train", MODEL, "--data", str(folder), *SMALL, *map(str, arguments)])


@pytest.fixture(scope="module")
def trained(folder: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a training, with out.json and out.safetensors beside it."""
    root = tmp_path_factory.mktemp("trained")
    written = ["--json", root / "out.json", "--save", root / "out.safetensors"]
    assert run(folder, *TRAINING, "--init", weights, "--out", root / "out", *written) == 0
    return root / "out"


def results(file: Path) -> Any:
    return json.loads(file.read_text())["results"]


def test_float_trained_and_int8_are_measured_and_kept(folder: Path, weights: Path, trained: Path) -> None:
    measured = results(trained.parent / "out.json")
    assert list(measured) == ["float", "W4A4 trained", "W4A4 average", "W4A4 int8"]
    assert all(row["images"] == 21 for row in measured.values())
    assert measured["W4A4 int8"]["size_bytes"] < 0.7 * measured["float"]["size_bytes"]
    model = timm.create_model(MODEL, img_size=32, num_classes=3).eval()
    model.load_state_dict(load_file(weights))
    images, labels = load_folder(model, folder / "val")
    for gm, name in ((model, "float"), (fxquant.load(trained.parent / "out.safetensors"), "W4A4 int8")):
        with torch.no_grad():
            hits = int((gm(images).argmax(1) == labels).sum())
        assert measured[name]["top1_percent"] == pytest.approx(100 * hits / 21)
    card = fxquant.load(trained.parent / "out.safetensors").card
    assert (card.class_names, card.num_classes) == (CLASSES, 3)
    assert card.recipe == fxquant.UsedRecipe("vvtq", 4, 4, card.recipe.options if card.recipe else ())
    assert card.accuracy is not None
    assert card.accuracy.quantised_top1 == measured["W4A4 int8"]["top1_percent"]
    assert card.accuracy.float_top1 == measured["float"]["top1_percent"]
    with (trained / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[1]["top1"]) == pytest.approx(measured["W4A4 trained"]["top1_percent"], rel=1e-4)
    assert float(rows[1]["ema_top1"]) == pytest.approx(measured["W4A4 average"]["top1_percent"], rel=1e-4)
    data = json.loads((trained.parent / "out.json").read_text())
    assert data["training"]["ema_decay"] == 0.5
    assert data["identity"]["w_bits"] == 4
    assert [row["epoch"] for row in data["history"]] == [0, 1]
    assert sorted(p.name for p in trained.iterdir()) == [
        "best.pt",
        "checkpoint.previous.pt",
        "checkpoint.pt",
        "log.csv",
    ]


def test_a_checkpoint_is_measured_without_training_images(
    folder: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = results(trained.parent / "out.json")
    assert run(folder / "val", "--out", trained, "--evaluate", "--json", tmp_path / "out.json") == 0
    found = results(tmp_path / "out.json")
    # The range of the images, which are others here, stands in the file as text.
    sizes = [rows["W4A4 int8"].pop("size_bytes") for rows in (found, wanted)]
    assert sizes[0] == pytest.approx(sizes[1], abs=64)
    assert found == {name: row for name, row in wanted.items() if name != "float"}
    assert f"weights   checkpoint {trained / 'checkpoint.pt'}" in capsys.readouterr().out
    assert run(folder, "--evaluate", trained / "best.pt", "--w-bits", 3) == 2
    assert "w_bits is 4 there and 3 here; quantisers is" in capsys.readouterr().err
    assert run(folder, "--evaluate", trained / "best.pt", "--option", "learned_bits=true", "--no-head") == 2
    err = capsys.readouterr().err
    assert "recipe_options is none there and head=false, learned_bits=true here; quantisers is" in err
    assert len(err.splitlines()) == 1
    assert len(err) < 600


def test_a_folder_that_is_in_use_is_resumed_only_by_the_same_training(
    folder: Path, weights: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = [*TRAINING, "--init", weights, "--out", trained]
    assert run(folder, *same) == 2
    assert "holds a training already: --resume goes on with it" in capsys.readouterr().err
    assert run(folder, *same, "--resume", "--a-bits", 5, "--seed", 1, "--drop-path", 0.2) == 2
    err = capsys.readouterr().err
    assert "drop_path is 0.1 there and 0.2 here" in err
    assert "a_bits is 4 there and 5 here" in err
    assert "seed is 0 there and 1 here" in err


def test_a_training_goes_on_with_its_own_images_alone(
    folder: Path, weights: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "images"
    shutil.copytree(folder, other)
    same = [*TRAINING, "--init", weights, "--out", trained, "--resume"]
    assert run(other, *same) == 0  # elsewhere, but the same
    next(other.glob("train/cat/*")).rename(other / "train" / "dog" / "moved.png")
    assert run(other, *same) == 2
    assert re.search(
        r"holds another training: image_names is \w{12} there and \w{12} here\. Give", capsys.readouterr().err
    )


def test_the_first_process_builds_the_model_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(build: Any) -> Any:
        assert build().name.startswith(MODEL)
        raise fxquant.InputError("asked in turn")

    monkeypatch.setattr(train, "first_then_others", refuse)
    assert run(folder, "--out", tmp_path) == 2
    assert "asked in turn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("epochs", "crops", "several", "said"),
    [
        (9, 4, True, "4 crops of each"),
        (9, 4, False, "one crop of each"),
        (3, 4, True, "one crop of each, as 3 epochs are too few for a pass of 4"),
    ],
)
def test_it_says_how_many_crops_are_shown(epochs: int, crops: int, several: bool, said: str) -> None:
    options = TrainingOptions(epochs=epochs, crops=crops)
    setting: Any = SimpleNamespace(training=options, passes=plan_passes(options, 10, several))
    assert train._crops(setting) == said


def test_help_tells_what_is_possible(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "bits of weights, 1 to 8 (default: 4)" in told
    assert "vvtq, the only recipe with learned steps" in told
    assert "--attention" not in told
    assert "--evaluate OUT/best.pt --save FILE saves that of the best" in told


def test_asked_to_stop_it_says_how_to_go_on_and_does(
    folder: Path, weights: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read, left = AugmentedImages.__getitem__, iter(range(40, -1, -1))

    def kill(self: AugmentedImages, index: int) -> Any:
        if not next(left):
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self, index)

    same = [*TRAINING, "--init", weights, "--out", tmp_path]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AugmentedImages, "__getitem__", kill)
        assert run(folder, *same) == 130
    err = capsys.readouterr().err
    assert f"the same command with --resume goes on from {tmp_path / 'checkpoint.pt'}" in err
    assert err.endswith("fxquant: interrupted\n")
    assert run(folder, *same, "--resume") == 0
    one, other = (read_state(path / "checkpoint.pt")["model"] for path in (trained, tmp_path))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.long
def test_several_crops_with_soft_labels(
    folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, random = tmp_path / "labels", np.random.RandomState(0)
    for image in (folder / "train").glob("*/*.png"):
        stored = labels.joinpath(*image.with_suffix(".tar").parts[-4:])
        stored.parent.mkdir(parents=True, exist_ok=True)
        coords = np.concatenate((random.uniform(0, 0.4, (6, 2)), np.full((6, 2), 0.5)), axis=1).astype(np.float32)
        answers = torch.tensor([float(CLASSES.index(image.parent.name)), 0.9]).repeat(6, 1)
        torch.save([coords, random.rand(6) > 0.5, answers], stored)
    given = ["--soft-labels", labels, "--label-kind", "smoothing", "--crops", 2, "--init", weights]
    assert run(folder, "--epochs", 5, "--batch-size", 12, *given, "--out", tmp_path / "out") == 0
    assert f"2 crops of each, labels in {labels}" in capsys.readouterr().out
    with (tmp_path / "out" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["crops"]) for row in rows] == [("0", "2"), ("2", "2"), ("4", "1")]
    saved = read_state(tmp_path / "out" / "checkpoint.pt")["settings"]
    assert saved["labels"] == "smoothing"
    assert saved["several_crops"] is True
    first = sorted(labels.rglob("*.tar"))[0]
    torch.save([coords, random.rand(6) > 0.5, answers], first)
    again = ["--epochs", 5, "--batch-size", 12, *given, "--out", tmp_path / "out", "--resume"]
    assert run(folder, *again) == 2
    assert "holds another training: first_labels is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out DIR says where the training is kept"),
        (["--out", "o", "--epochs", "2", "--warmup-epochs", "2"], "warmup_epochs must be fewer than the 2 epochs"),
        (["--out", "o", "--lr", "nan"], "lr must be a finite number"),
        (["--out", "o", "--recipe", "omse"], "learned step"),
        (["--out", "o", "--label-kind", "ori"], "--label-kind is for --soft-labels"),
        (["--out", "o", "--batch-size", "8", "--save", "no/o.safetensors"], "cannot write 'no/o.safetensors'"),
        (["--out", "o", "--device", "nowhere"], "device 'nowhere' cannot be used"),
        (["--evaluate", "none.pt"], "checkpoint 'none.pt' does not exist"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    arguments: list[str],
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(folder, *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("fxquant: error: ")
    assert re.search(message, err), err
    assert list(tmp_path.iterdir()) == []


def test_training_and_measuring_on_the_same_images_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder / "train", "--out", tmp_path) == 2
    assert "what is trained on cannot be measured on" in capsys.readouterr().err
