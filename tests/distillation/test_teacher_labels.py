"""Labels by a teacher: what it says of the crops that are stored, drawn by seed and name, the same after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxquant.data.folder import Samples
from fxquant.data.pixels import open_image
from fxquant.distillation import LabelKind, make_labels, open_labels, shard
from fxquant.distillation.cutting import cut_crops, normalise
from fxquant.errors import ConfigError, InputError
from tests.distillation.test_label_packing import contents
from tests.support.soft_labels import CLASSES, DATA_CONFIG, KINDS, TinyTeacher, equal, make_images

K5 = LabelKind.MARGINAL_SMOOTHING_K5


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return make_images(tmp_path_factory.mktemp("images") / "data")


def make(samples: Samples, out: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"teacher": TinyTeacher(), "crops": 7, "batch_size": 5, "images_per_shard": 4, **options}
    return make_labels(given.pop("teacher"), samples, DATA_CONFIG, out, **given)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_what_the_teacher_says_of_the_stored_crops(
    kind: LabelKind, samples: Samples, tmp_path: Path
) -> None:
    manifest = make(samples, tmp_path / "out", kind=kind, name="tiny", seed=2)
    assert (manifest.kind, manifest.num_classes, manifest.crops) == (kind, CLASSES, 42)
    assert manifest.facts["teacher"] == "tiny"
    assert (manifest.facts["size"], manifest.facts["interpolation"], manifest.facts["seed"]) == (16, "bicubic", 2)
    source, teacher = open_labels(tmp_path / "out", kind, CLASSES), TinyTeacher()
    for file in samples.files:
        labels = source.read(file)
        pixels = cut_crops(open_image(file), labels.coords, labels.flips, 16, "bicubic")
        with torch.no_grad():
            p = teacher(normalise(pixels, DATA_CONFIG.mean, DATA_CONFIG.std)).softmax(1)
        if kind is LabelKind.ORI:
            torch.testing.assert_close(labels.targets.dense(), p)
            continue
        top = p.topk(kind.kept)
        assert torch.equal(labels.targets.classes, top.indices)
        if kind is not LabelKind.HARD:
            torch.testing.assert_close(labels.targets.probabilities, top.values)


def test_crops_depend_on_seed_and_name_alone(samples: Samples, tmp_path: Path) -> None:
    options: list[dict[str, Any]] = [
        {},
        {"batch_size": 64, "images_per_shard": 100, "workers": 2},
        {"batch_size": 1, "workers": 1},
        {"seed": 1},
    ]
    first, *others = (tmp_path / str(index) for index in range(4))
    for out, given in zip((first, *others), options, strict=True):
        make(samples, out, **given)
    # Elsewhere, an image has the crops that it has among others.
    make(samples.take([5, 1]), tmp_path / "few")
    for file in samples.files:
        labels = open_labels(first).read(file)
        for out in others[:2]:
            again = open_labels(out).read(file)
            assert torch.equal(again.coords, labels.coords)
            torch.testing.assert_close(again.targets.dense(), labels.targets.dense())
        assert not torch.equal(open_labels(others[2]).read(file).coords, labels.coords)
    file = samples.files[5]
    assert torch.equal(open_labels(tmp_path / "few").read(file).coords, open_labels(first).read(file).coords)


def test_an_interrupted_run_gives_the_same_files(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(TinyTeacher):
        calls, last = 0, 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == self.last:
                raise KeyboardInterrupt
            return super().forward(x)

    whole, out, teacher = tmp_path / "whole", tmp_path / "out", Interrupted()
    make(samples, whole, images_per_shard=2)
    teacher.last = 6  # one to find the classes, three for the first file
    with pytest.raises(KeyboardInterrupt):
        make(samples, out, images_per_shard=2, teacher=teacher.train())
    assert teacher.training
    assert list(contents(out)) == ["labels-00000.safetensors"]
    (out / ".fxquant-0000.tmp").write_bytes(b"what a killed run leaves")
    teacher.calls = 0
    teacher.last = -1
    make(samples, out, images_per_shard=2, teacher=teacher)
    assert teacher.calls == 1 + 2 * 3
    found = contents(out)
    assert found == contents(whole)

    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard, "save_file", no_space)
    with pytest.raises(InputError, match=r"cannot write '.*labels-00000.safetensors': .*No space left"):
        make(samples, tmp_path / "full")


def test_another_teacher_or_other_crops_are_not_mixed_in(samples: Samples, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(samples, out)
    other = TinyTeacher()
    nn.init.zeros_(other.head.bias)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"teacher": other}, "teacher is"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"crops": 8}, "count is 7 there and 8 here"),
        ({"scale": (0.1, 1.0)}, r"scale is \[0.08, 0.936\] there and \[0.1, 1.0\] here"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            make(samples, out, **options)
    before = open_labels(out).read(samples.files[0])
    make(samples, out, batch_size=64)  # on which the labels do not depend
    assert equal(open_labels(out).read(samples.files[0]), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(workers: int, tmp_path: Path) -> None:
    samples = make_images(tmp_path / "data")
    samples.files[3].write_bytes(b"no image")
    with pytest.raises(InputError) as caught:
        make(samples, tmp_path / "out", workers=workers)
    assert str(caught.value).startswith(f"cannot read the image {str(samples.files[3])!r}")
    assert "put a readable one in its place" in str(caught.value)


def test_what_cannot_teach_is_refused_before_any_work(samples: Samples, tmp_path: Path) -> None:
    features = nn.Sequential(nn.AdaptiveAvgPool2d(2))
    broken = TinyTeacher()
    nn.init.constant_(broken.head.bias, float("nan"))
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"teacher": features}, InputError, r"returns logits \(B, C\), found \(1, 3, 2, 2\)"),
        ({"teacher": TinyTeacher(3)}, InputError, "keep 5 classes, the teacher has 3"),
        ({"teacher": broken}, InputError, "logits are not finite"),
        ({"batch_size": 0}, ConfigError, "batch_size must be a whole number of at least 1, got 0"),
        ({"crops": 0}, ConfigError, "crops must be"),
        ({"kind": "soft"}, ConfigError, "unknown kind of labels"),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            make(samples, tmp_path / "out", **options)
    config = DATA_CONFIG.changed({"input_size": (3, 16, 24)})
    with pytest.raises(InputError, match="square images, its data config has 16 x 24"):
        make_labels(TinyTeacher(), samples, config, tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))
