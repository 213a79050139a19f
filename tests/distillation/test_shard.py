"""A file of packed labels: compact, read by rows, and known again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fxquant.distillation import CropLabels, LabelKind, SoftTargets
from fxquant.distillation.shard import open_shard, read_counts, write_shard
from fxquant.errors import InputError

HARD = LabelKind.HARD


def make_labels(count: int, kind: LabelKind = HARD, classes: int = 100) -> CropLabels:
    coords, flips = torch.rand(count, 4), torch.rand(count) < 0.5
    if kind is LabelKind.ORI:
        targets = SoftTargets(torch.empty(count, 0, dtype=torch.int64), torch.rand(count, classes), classes, kind)
    else:
        top = torch.rand(count, classes).topk(kind.kept)
        targets = SoftTargets(top.indices, torch.ones(count, 1) if kind is HARD else top.values, classes, kind)
    return CropLabels(coords, flips, targets)


def test_tensors_are_as_small_as_they_can_be(tmp_path: Path) -> None:
    wanted = {
        (LabelKind.ORI, 100): {"coords", "flips", "probabilities"},
        (HARD, 100): {"coords", "flips", "classes"},
        (LabelKind.SMOOTHING, 2**15): {"coords", "flips", "classes", "probabilities"},
        (LabelKind.SMOOTHING, 2**15 + 1): {"coords", "flips", "classes", "probabilities"},
    }
    for (kind, classes), names in wanted.items():
        file = tmp_path / f"{kind.value}{classes}"
        write_shard(file, ["a"], [make_labels(3, kind, classes)], {})
        tensors = load_file(file)
        assert set(tensors) == names
        assert tensors["flips"].dtype is torch.uint8
        if "classes" in names:
            assert tensors["classes"].dtype is (torch.int16 if classes <= 2**15 else torch.int32)


def test_the_last_class_survives_the_small_type(tmp_path: Path) -> None:
    targets = SoftTargets(torch.tensor([[2**15 - 1]]), torch.ones(1, 1), 2**15, HARD)
    write_shard(tmp_path / "a", ["a"], [CropLabels(torch.rand(1, 4), torch.tensor([True]), targets)], {})
    assert open_shard(tmp_path / "a", 1, HARD, 2**15).take([0], HARD, 2**15).targets.classes.item() == 2**15 - 1


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="tells what is in memory on Linux alone")
def test_only_rows_that_are_asked_for_are_read(tmp_path: Path) -> None:
    file = tmp_path / "big.safetensors"
    write_shard(file, ["a"], [make_labels(5000, LabelKind.ORI, 1000)], {})
    shard = open_shard(file, 5000, LabelKind.ORI, 1000)
    labels = shard.take([17, 3999], LabelKind.ORI, 1000)
    assert labels.targets.dense().shape == (2, 1000)
    maps = Path("/proc/self/smaps").read_text().split(str(file))[1:]
    resident = sum(1024 * int(text.split("Rss:")[1].split()[0]) for text in maps)
    assert maps
    assert resident < file.stat().st_size / 4


def test_a_file_knows_its_images_and_settings(tmp_path: Path) -> None:
    file = tmp_path / "a"
    assert read_counts(file, ["a", "b"], {"seed": 1}) is None
    write_shard(file, ["a", "b"], [make_labels(3), make_labels(2)], {"seed": 1, "scale": (0.1, 1.0)})
    settings = {"seed": 1, "scale": (0.1, 1.0)}
    assert read_counts(file, ["a", "b"], settings) == (3, 2)
    with pytest.raises(InputError, match="holds other labels: seed is 1 there and 2 here"):
        read_counts(file, ["a", "b"], settings | {"seed": 2})
    with pytest.raises(InputError, match="size is null there and 4 here"):
        read_counts(file, ["a", "b"], settings | {"size": 4})
    with pytest.raises(InputError, match="labels of other images"):
        read_counts(file, ["a", "c"], settings)


def test_damaged_and_other_files_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_shard(file, ["a"], [make_labels(3)], {})
    with pytest.raises(InputError, match="not the file that its folder's index tells of"):
        open_shard(file, 4, HARD, 100)
    with pytest.raises(InputError, match="not the file that its folder's index tells of"):
        open_shard(file, 3, LabelKind.SMOOTHING, 100)
    whole = file.read_bytes()
    for data in (whole[:-1], whole[:20], b""):
        file.write_bytes(data)
        with pytest.raises(InputError, match=r"cannot read '.*a.safetensors' as a file of labels"):
            open_shard(file, 3, HARD, 100)
    save_file({"coords": torch.ones(1)}, file)
    with pytest.raises(InputError, match="but none of labels"):
        open_shard(file, 3, HARD, 100)
    with pytest.raises(InputError, match="cannot write"):
        write_shard(tmp_path / "none" / "a", ["a"], [make_labels(3)], {})
