"""Packing: nothing is lost, an interrupted run goes on, and the packed labels are read as the published ones."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fxquant.data.folder import Samples
from fxquant.distillation import LabelKind, open_labels, pack_labels, shard
from fxquant.distillation.packed import PackedLabels
from fxquant.errors import ConfigError, InputError
from tests.support.soft_labels import CLASSES, KINDS, equal, make_images, publish, write_label

K5 = LabelKind.MARGINAL_SMOOTHING_K5


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    return make_images(tmp_path / "data")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost(kind: LabelKind, samples: Samples, tmp_path: Path) -> None:
    published = publish(tmp_path / "labels", samples, kind)
    out = tmp_path / "packed"
    manifest = pack_labels(published, samples, out, kind, CLASSES, teacher="t", size=32, images_per_shard=4)
    assert sorted(contents(out)) == ["labels-00000.safetensors", "labels-00001.safetensors", "labels.json"]
    assert (manifest.images, manifest.crops) == (6, 57)
    assert manifest.facts == {"teacher": "t", "size": 32, "interpolation": None}
    one, other = open_labels(published, kind, CLASSES), open_labels(out, kind.value, CLASSES)
    assert isinstance(other, PackedLabels)
    other = pickle.loads(pickle.dumps(other))
    for image in samples.files:
        assert one.count(image) == other.count(image)
        assert equal(one.read(image), other.read(image))
        assert equal(one.read(image, [7, 2]), other.read(image, [7, 2]))
        with pytest.raises(InputError, match="expected crops 0 to"):
            other.read(image, [11])
    assert equal(pickle.loads(pickle.dumps(other)).read(image), one.read(image))


def test_an_interrupted_run_goes_on(samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = publish(tmp_path / "labels", samples, K5)
    whole, out = tmp_path / "whole", tmp_path / "out"
    pack_labels(published, samples, whole, K5, CLASSES, images_per_shard=2)
    written: list[str] = []
    real = save_file

    def fail_at_second(tensors: Any, name: str, metadata: Any) -> None:
        written.append(name)
        if len(written) == 2:
            Path(name).write_bytes(b"half")
            raise KeyboardInterrupt
        real(tensors, name, metadata)

    monkeypatch.setattr(shard, "save_file", fail_at_second)
    with pytest.raises(KeyboardInterrupt):
        pack_labels(published, samples, out, K5, CLASSES, images_per_shard=2)
    assert list(contents(out)) == ["labels-00000.safetensors"]
    with pytest.raises(InputError, match=r"not complete: 'labels.json' is written last"):
        open_labels(out)
    pack_labels(published, samples, out, K5, CLASSES, images_per_shard=2)
    assert len(written) == 4
    assert contents(out) == contents(whole)
    pack_labels(published, samples, out, K5, CLASSES, images_per_shard=2)
    assert len(written) == 4
    (out / "labels-00001.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks 1 of its 3 files, such as 'labels-00001"):
        open_labels(out)
    pack_labels(published, samples, out, K5, CLASSES, images_per_shard=2)
    assert contents(out) == contents(whole)


def test_labels_are_not_mixed_with_others(samples: Samples, tmp_path: Path) -> None:
    published = publish(tmp_path / "labels", samples, K5)
    out = tmp_path / "out"
    pack_labels(published, samples, out, K5, CLASSES, images_per_shard=3)
    before = contents(out)
    with pytest.raises(InputError, match="kind is"):
        pack_labels(published, samples, out, LabelKind.MARGINAL_RENORM, CLASSES, images_per_shard=3)
    with pytest.raises(InputError, match="images_per_shard is 3 there and 4 here"):
        pack_labels(published, samples, out, K5, CLASSES, images_per_shard=4)
    with pytest.raises(InputError, match="holds 1 files of other labels, such as 'labels-00001"):
        pack_labels(published, samples.take([0, 1]), out, K5, CLASSES, images_per_shard=3)
    write_label(published / "data" / "train" / "n0" / "n0_0.tar", K5, seed=99)
    with pytest.raises(InputError, match="first labels is"):
        pack_labels(published, samples, out, K5, CLASSES, images_per_shard=3)
    with pytest.raises(InputError, match="into the folder that they come from"):
        pack_labels(published, samples, published, K5, CLASSES)
    assert contents(out) == before


def test_what_cannot_be_packed_is_refused(samples: Samples, tmp_path: Path) -> None:
    published = publish(tmp_path / "labels", samples, K5)
    missing = published / "data" / "train" / "n1" / "n1_2.tar"
    missing.unlink()
    with pytest.raises(InputError, match=r"no labels of .*n1_2.png'.*expected .*n1_2.tar"):
        pack_labels(published, samples, tmp_path / "out", K5, CLASSES)
    with pytest.raises(ConfigError, match="workers must be at least 1"):
        pack_labels(published, samples, tmp_path / "out", K5, CLASSES, workers=0)
    with pytest.raises(ConfigError, match="images_per_shard must be at least 1"):
        pack_labels(published, samples, tmp_path / "out", K5, CLASSES, images_per_shard=0)
    with pytest.raises(InputError, match=r"cannot make the folder .*n1_1.tar' is a file"):
        pack_labels(published, samples, published / "data" / "train" / "n1" / "n1_1.tar" / "out", K5, CLASSES)
    same = samples.files[0].with_suffix(".jpg")
    twins = Samples(samples.root, (*samples.files, same), (*samples.labels, 0))
    with pytest.raises(InputError, match=r"'n0/n0_0.png' and 'n0/n0_0.jpg' in .* would share their labels"):
        pack_labels(published, twins, tmp_path / "out", K5, CLASSES)


def test_images_may_lie_elsewhere_and_at_any_depth(tmp_path: Path) -> None:
    root = tmp_path / "data" / "train"
    files = tuple(root / name for name in ("n0/0.png", "n0/deep/0.png", "deep/0.png"))
    samples = Samples(root, files, (0, 0, 1))
    published = publish(tmp_path / "labels", samples, K5)
    pack_labels(published, samples, tmp_path / "out", K5, CLASSES)
    one, other = open_labels(published, K5, CLASSES), open_labels(tmp_path / "out")
    moved = tmp_path / "elsewhere"
    for file in files:
        assert equal(one.read(file), other.read(moved / file.relative_to(root)))
    with pytest.raises(InputError, match=r"no labels of .*1.png' in .*, which holds 3 images such as 'n0/0'"):
        other.count(moved / "n0" / "1.png")


def test_the_kind_that_is_stored_decides_how_it_can_be_read(samples: Samples, tmp_path: Path) -> None:
    published = publish(tmp_path / "labels", samples, K5)
    out, image = tmp_path / "out", samples.files[0]
    pack_labels(published, samples, out, K5, CLASSES)
    assert open_labels(out).read(image).targets.kind is K5
    renormed = open_labels(out, LabelKind.MARGINAL_RENORM).read(image).targets
    assert torch.allclose(renormed.dense().sum(1), torch.ones(9))
    with pytest.raises(InputError, match="holds marginal_smoothing_k5 labels, which cannot be read as hard"):
        open_labels(out, "hard")
    with pytest.raises(InputError, match="labels of 12 classes, the model has 10"):
        open_labels(out, None, 10)
