"""Several crops of each image: the same in an epoch however they are loaded, others in the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fxquant.data.folder import Samples
from fxquant.data.pixels import open_image
from fxquant.distillation import (
    LabelKind,
    MultiCropImages,
    SoftTargets,
    checked_batches,
    collate,
    open_labels,
    pack_labels,
)
from fxquant.distillation.crops import IMAGENET_MEAN, IMAGENET_STD
from fxquant.distillation.cutting import cut_crops, normalise
from fxquant.errors import ConfigError, InputError
from tests.support.soft_labels import CLASSES, make_images, publish

K5 = LabelKind.MARGINAL_SMOOTHING_K5


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return make_images(tmp_path_factory.mktemp("images") / "data")


@pytest.fixture(scope="module")
def labels(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("labels"), samples, K5)


@pytest.fixture(scope="module")
def packed(samples: Samples, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed")
    pack_labels(labels, samples, out, K5, CLASSES, images_per_shard=4)
    return out


@pytest.fixture
def dataset(samples: Samples, labels: Path) -> MultiCropImages:
    return MultiCropImages(samples, open_labels(labels, K5, CLASSES), crops=3, size=8, seed=5)


def load(dataset: MultiCropImages, workers: int = 0, **options: Any) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=dataset.collate, **options)


def together(loader: Any) -> tuple[Tensor, Tensor]:
    batches = list(checked_batches(loader))
    return torch.cat([images for images, _ in batches]), torch.cat([targets.dense() for _, targets in batches])


def same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_item_holds_different_crops_with_their_targets(dataset: MultiCropImages) -> None:
    item = dataset[2]
    assert not isinstance(item, InputError)
    images, targets = item
    file = dataset.samples.files[2]
    stored = dataset.source.read(file)
    pixels = cut_crops(open_image(file), stored.coords, stored.flips, 8, "bilinear")
    every = normalise(pixels, IMAGENET_MEAN, IMAGENET_STD)
    assert images.shape == (3, 3, 8, 8)
    rows = [int((every == image).flatten(1).all(1).nonzero()) for image in images]
    assert len(set(rows)) == 3
    assert torch.equal(targets.dense(), stored.targets.dense()[rows])


def test_a_batch_holds_the_crops_of_its_images_side_by_side(dataset: MultiCropImages) -> None:
    items = [dataset[0], dataset[1]]
    batch = collate(items)
    assert not isinstance(batch, InputError)
    images, targets = batch
    assert images.shape == (6, 3, 8, 8)
    assert isinstance(targets, SoftTargets)
    assert torch.equal(images[3:], items[1][0])  # type: ignore[index]
    assert len(dataset) == 6


def test_an_epoch_has_the_same_crops_however_it_is_loaded(
    dataset: MultiCropImages, samples: Samples, packed: Path
) -> None:
    dataset.set_epoch(3)
    third = together(load(dataset))
    dataset.set_epoch(4)
    assert not same(together(load(dataset)), third)
    dataset.set_epoch(3)
    assert same(together(load(dataset, workers=2)), third)
    assert same(together(load(dataset)), third)
    other = MultiCropImages(samples, open_labels(packed), crops=3, size=8, seed=5)
    other.set_epoch(3)
    assert same(together(load(other, workers=1)), third)
    other = MultiCropImages(samples, open_labels(packed), crops=3, size=8, seed=6)
    other.set_epoch(3)
    assert not same(together(load(other)), third)


def test_workers_that_outlive_an_epoch_see_the_next(samples: Samples, packed: Path) -> None:
    dataset = MultiCropImages(samples, open_labels(packed), crops=2, size=8)
    wanted = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        wanted.append(together(load(dataset)))
    loader = load(dataset, workers=2, persistent_workers=True)
    for epoch in (1, 0, 2):
        dataset.set_epoch(epoch)
        assert same(together(loader), wanted[epoch])
    dataset.set_epoch(0)
    next(checked_batches(loader))  # a pass that ends early
    dataset.set_epoch(1)
    assert same(together(loader), wanted[1])


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_raised_in_the_main_process_by_name(workers: int, labels: Path, tmp_path: Path) -> None:
    samples = make_images(tmp_path / "data")
    dataset = MultiCropImages(samples, open_labels(labels, K5, CLASSES), crops=3, size=8)
    samples.files[4].write_bytes(b"no image")
    with pytest.raises(InputError) as caught:
        together(load(dataset, workers))
    assert str(caught.value).startswith(f"cannot read the image {str(samples.files[4])!r}")
    assert "Traceback" not in str(caught.value)
    dataset.crops = 10
    with pytest.raises(InputError, match=r"10 crops per image are asked for, 9 are stored for .*n0_0.png"):
        together(load(dataset, workers))


def test_impossible_options_are_refused(samples: Samples, labels: Path) -> None:
    source = open_labels(labels, K5, CLASSES)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"crops": 0}, "crops must be at least 1, got 0"),
        ({"size": 0}, "size must be at least 1"),
        ({"interpolation": "random"}, "interpolation must be one of"),
    ]
    for options, message in cases:
        with pytest.raises(ConfigError, match=message):
            MultiCropImages(samples, source, **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_targets_are_pinned_and_moved(dataset: MultiCropImages) -> None:
    for images, targets in checked_batches(load(dataset, pin_memory=True)):
        assert images.is_pinned()
        assert targets.classes.is_pinned()
        moved = targets.to("cuda", non_blocking=True)
        assert torch.allclose(moved.dense().cpu(), targets.dense())
