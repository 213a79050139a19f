"""`fxquant eval`: the numbers it prints are right, and what it cannot measure it refuses by name."""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.cli.main import main
from fxquant.cli.options.eval import add_arguments
from fxquant.cli.setting import resolve_setting
from tests.support.folders import CLASSES, MODEL, TAG, VAL, load_folder

SMALL = ["--img-size", "32", "--num-classes", "3", "--calib", "9", "--batch-size", "8", "--workers", "0"]


def run_eval(folder: Path, *arguments: object) -> int:
    return main(["eval", MODEL, "--data", str(folder), "--recipe", "minmax", *SMALL, *map(str, arguments)])


def measure_directly(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return 100 * int((model(images).argmax(1) == labels).sum()) / len(labels)


def test_float_is_measured_as_plain_torch_does_and_int8_beside_it(
    folder: Path, model: nn.Module, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = load_folder(model, folder / "val")
    wanted = measure_directly(model, images, labels)
    assert wanted > 60  # twice chance: a wrong class order or preprocessing would show
    written, saved = tmp_path / "out.json", tmp_path / "out.safetensors"
    assert run_eval(folder, "--checkpoint", checkpoint, "--json", written, "--save", saved, "--strict") == 0
    out = capsys.readouterr().out
    assert f"float model: top-1 {wanted:.2f} %" in out
    assert f"{MODEL}.{TAG}, 0.1 M parameters, float32 on cpu" in out
    assert "3x32x32, interpolation bicubic, crop_pct 0.9, crop_mode center, mean (0.5, 0.5, 0.5)" in out
    assert f"9 of 30 images in {folder}/train, seed 0" in out
    assert f"21 of 21 images in {folder}/val, 3 classes" in out
    assert max(map(len, out[out.index("top-1 %") : out.index("saved ")].splitlines())) <= 100

    data = json.loads(written.read_text())
    assert data["results"]["float"]["top1_percent"] == pytest.approx(wanted)
    quantised = data["results"]["quantised"]
    assert quantised["name"] == "W8A8 int8"
    assert quantised["agreement_percent"] > 80
    assert quantised["images"] == 3 * VAL
    assert 0.9 < quantised["int8_coverage"] <= 1
    assert quantised["size_bytes"] < 0.5 * data["results"]["float"]["size_bytes"]

    assert main(["report", str(saved)]) == 0
    assert str(fxquant.report(fxquant.load(saved))) in capsys.readouterr().out
    assert measure_directly(fxquant.load(saved), images, labels) == pytest.approx(quantised["top1_percent"])


def test_json_tells_how_to_repeat_the_run(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    options = ["--checkpoint", checkpoint, "--seed", 3, "--recipe", "percentile", "--w-bits", 6, "--limit", 5]
    options += ["--no-head", "--option", "alpha=0.9", "--option", "sigma=1"]
    for file in files:
        assert run_eval(folder, *options, "--target", "fake", "--json", file) == 0
    assert "recipe percentile (alpha=0.9, sigma=1), W6A8" in capsys.readouterr().out
    one, other = (json.loads(file.read_text()) for file in files)
    assert one["results"] == other["results"]
    assert one["data"] == other["data"]
    assert one["seed"] == 3
    assert one["target"] == "fake"
    recipe = {"name": "percentile", "w_bits": 6, "a_bits": 8, "patch_embed": True, "head": False, "attention": False}
    assert one["recipe"] == recipe | {"options": {"alpha": 0.9, "sigma": 1, "head": False}}
    assert one["model"]["pretrained_cfg"]["tag"] == TAG
    assert one["data"]["config"]["input_size"] == [3, 32, 32]
    assert one["data"]["classes"] == list(CLASSES)
    assert len(one["data"]["calibration"]["files"]) == 9
    assert one["data"]["evaluation"]["used"] == 5
    assert one["results"]["quantised"]["int8_coverage"] is None
    assert {"fxquant", "torch", "timm", "threads"} <= set(one["environment"])
    assert one["calibration_seconds"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_options_memory_and_seed_reach_recipe_and_calibration(
    folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Reached(fxquant.FxquantError):
        pass

    seen: list[Any] = []

    def prepare(model: Any, config: Any, example: Any) -> None:
        seen.append(config)

    def calibrate(prepared: Any, batches: Any, **options: int) -> None:
        seen.append(options)
        raise Reached("far enough")

    monkeypatch.setattr(fxquant, "prepare", prepare)
    monkeypatch.setattr(fxquant, "calibrate", calibrate)
    options = ["--recipe", "ptq4vit", "--option", "published=true", "--option", "metric=cosine", "--seed", 5]
    assert run_eval(folder, "--checkpoint", checkpoint, "--limit", 1, *options) == 2
    assert run_eval(folder, "--checkpoint", checkpoint, "--limit", 1, *options, "--memory", "0.5") == 2
    config = fxquant.recipe("ptq4vit", published=True, metric="cosine")
    assert seen == [config, {"seed": 5}, config, {"seed": 5, "memory": 2**29}]
    assert "recipe ptq4vit (published=true, metric=cosine), W8A8" in capsys.readouterr().out


def test_pth_in_bfloat16_from_a_flat_folder_keeps_images_apart(
    folder: Path, model: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "tiny.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, weights)
    assert run_eval(folder / "train", "--checkpoint", weights, "--dtype", "bfloat16") == 0
    out = capsys.readouterr().out
    assert "21 of 30 images" in out
    assert "none of them a calibration image" in out
    assert "bfloat16 on cpu" in out


def test_random_weights_and_chance_accuracy_are_said_aloud(
    folder: Path,
    tmp_path: Path,
    model: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object) -> None:
        raise fxquant.FxquantError("the float model was all this test wanted")

    monkeypatch.setattr("fxquant.cli.eval.calibrate_model", stop)
    assert run_eval(folder, "--limit", 2) == 2
    assert "RANDOM: accuracy means nothing" in capsys.readouterr().out
    silent = {key: torch.zeros_like(v) if "head" in key else v for key, v in model.state_dict().items()}
    torch.save(silent, tmp_path / "silent.pth")
    assert run_eval(folder, "--checkpoint", tmp_path / "silent.pth") == 2
    assert "the float model is at chance level (33.33 %)" in capsys.readouterr().err


def test_class_map_gives_a_part_of_the_classes_their_indices(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part"
    for name in CLASSES[1:]:
        shutil.copytree(folder / "val" / name, part / name)
    assert run_eval(part, "--checkpoint", checkpoint) == 2
    assert f"{str(part)!r} has 2 classes (dog, eel), the model has num_classes 3" in capsys.readouterr().err
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(CLASSES))
    written = tmp_path / "out.json"
    assert run_eval(part, "--checkpoint", checkpoint, "--class-map", classes, "--calib", 2, "--json", written) == 0
    assert json.loads(written.read_text())["results"]["float"]["top1_percent"] > 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "nope"], "unknown recipe 'nope': expected one of default"),
        (["--option", "nope=1"], "recipe 'minmax' does not take these options: .*nope"),
        (["--recipe", "ptq4vit", "--option", "metric=l3"], "expected one of 'cosine', .* got 'l3'"),
        (["--option", "head=1"], "option head must be True or False, got 1"),
        (["--option", "head=false", "--no-head"], "option head is given twice, as False and False"),
        (["--option", "w_bits=4"], "w_bits is not an option of a recipe: use --recipe, --w-bits and --a-bits"),
        (["--w-bits", "9"], "bits must be an integer from 2 to 8, got 9"),
        (["--calib", "31"], r"--calib asks for 31 images, .*train' holds 30: give a number from 1 to 30"),
        (["--device", "nowhere"], "device 'nowhere' cannot be used"),
        (["--checkpoint", "none.pth"], "checkpoint 'none.pth' does not exist"),
        (["--json", "no/folder/o.json"], "cannot write 'no/folder/o.json': its folder does not exist"),
        (["--num-classes", "1000"], "has 3 classes .* the model has num_classes 1000: .* Give --num-classes 3"),
        (["--class-map", "classes.pkl"], "expected a .txt file with one class folder name per line"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_eval(folder, *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("fxquant: error: ")
    assert re.search(message, err), err


def test_missing_and_empty_folders_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_eval(tmp_path / "none") == 2
    assert f"image folder {str(tmp_path / 'none')!r} does not exist" in capsys.readouterr().err
    assert run_eval(tmp_path) == 2
    assert "found nothing: the folder is empty" in capsys.readouterr().err


def test_strict_refuses_what_stays_float(
    folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[Any] = []

    def convert(prepared: Any, target: str, strict: bool) -> Any:
        passed.append((target, strict))
        raise fxquant.UnsupportedGraphError("strict: 1 products")

    monkeypatch.setattr(fxquant, "convert", convert)
    assert run_eval(folder, "--checkpoint", checkpoint, "--strict") == 2
    assert passed == [("int8", True)]
    assert "strict: 1 products" in capsys.readouterr().err


def test_interrupt_leaves_nothing_half_written(
    folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)  # by then the new content lies under its temporary name
    written = tmp_path / "out.json"
    written.write_text("old")
    assert run_eval(folder, "--checkpoint", checkpoint, "--limit", 1, "--json", written) == 130
    assert capsys.readouterr().err.endswith("fxquant: interrupted\n")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.json", "old")]


def test_out_of_memory_suggests_a_smaller_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr("fxquant.cli.eval.measure_float", fail)
    assert run_eval(folder) == 2
    assert "out of memory, try a smaller --batch-size: CUDA out of memory" in capsys.readouterr().err


def test_a_model_of_nan_is_refused(
    folder: Path, model: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {**model.state_dict(), "head.bias": torch.full((3,), math.nan)}
    torch.save(state, tmp_path / "nan.pth")
    assert run_eval(folder, "--checkpoint", tmp_path / "nan.pth") == 2
    assert "float32, batch 0: logits are not finite" in capsys.readouterr().err


def test_images_that_cannot_be_read_are_skipped_named_and_not_counted(
    folder: Path, model: nn.Module, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, written = tmp_path / "broken", tmp_path / "out.json"
    shutil.copytree(folder, broken)
    for name in ("train/cat/1.png", "val/dog/0.png", "val/eel/6.png"):
        (broken / name).write_bytes(b"")
    (broken / "val" / "cat" / "9.heic").touch()
    options = ["--checkpoint", checkpoint, "--calib", 29, "--json", written, "--target", "fake", "--max-unreadable", 10]
    assert run_eval(broken, *options) == 0
    out = capsys.readouterr().out
    assert "note: left out 1 image that cannot be read here (1 .heic)" in out
    assert "calibrated with 28 images" in out
    assert f"skipped 1 of 29 images in {broken}/train that cannot be read: cat/1.png\n" in out
    assert f"skipped 2 of 21 images in {broken}/val that cannot be read: dog/0.png, eel/6.png\n" in out
    data = json.loads(written.read_text())
    assert [data["results"][name]["images"] for name in ("float", "quantised")] == [19, 19]
    assert data["data"]["evaluation"]["used"] == 19
    assert list(data["data"]["evaluation"]["unreadable"]) == [
        str(broken / "val/dog/0.png"),
        str(broken / "val/eel/6.png"),
    ]
    assert len(data["data"]["calibration"]["files"]) == 28

    images, labels = load_folder(model, folder / "val")
    left = [index for index in range(21) if index not in (7, 20)]
    wanted = measure_directly(model, images[left], labels[left])
    assert data["results"]["float"]["top1_percent"] == pytest.approx(wanted)


def test_too_many_unreadable_images_are_an_error(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    for image in (broken / "val" / "dog").iterdir():
        image.write_bytes(image.read_bytes()[:200])
    assert run_eval(broken, "--checkpoint", checkpoint) == 2
    error = capsys.readouterr().err
    assert "of 21 images cannot be read, more than 1 %. The first: cannot read the image" in error
    assert f"{broken}/val/dog/0.png" in error
    assert run_eval(broken, "--checkpoint", checkpoint, "--strict-images") == 2
    assert "1 of 21 images cannot be read, more than 0 %" in capsys.readouterr().err


def test_a_model_of_grey_images(folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = [MODEL, "--data", folder, *SMALL, "--checkpoint", checkpoint, "--in-chans", 1, "--limit", 6]
    setting = resolve_setting(parser.parse_args(list(map(str, given))), evaluated=True)
    assert "resized: patch_embed.proj.weight (64, 3, 16, 16) to (64, 1, 16, 16)" in setting.source.weights
    for batches in (setting.calibration, setting.measured[1]):
        images, _ = next(iter(batches))
        assert images.shape[1:] == (1, 32, 32)
    assert setting.source.model(images).shape == (6, 3)
    assert run_eval(folder, "--checkpoint", checkpoint, "--in-chans", 4, "--limit", 6) == 2
    assert "the model takes 4" in capsys.readouterr().err


def test_a_config_is_chosen_by_the_drop_of_top1_on_the_calibration_images(
    folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    written = tmp_path / "out.json"
    budget = ["--auto", "drop=0", "--w-bits", "3", "--a-bits", "3", "--limit", "4", "--json", written]
    assert run_eval(folder, "--checkpoint", checkpoint, *budget) == 0
    chosen = json.loads(written.read_text())["auto"]
    assert chosen["met"]
    assert chosen["point"]["score"] >= chosen["float_score"] > 0
