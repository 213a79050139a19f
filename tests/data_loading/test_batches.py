"""Batches of image files: what cannot be read is left out with its label and named, and too much of it is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from fxquant.data import ImageBatches, ImageTree, Unreadable, read_image_tree, resolve_data_config
from fxquant.errors import InputError
from fxquant.measurement.evaluation import evaluate
from tests.data_loading.test_folder import CONFIG, make_tree

BROKEN = [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(20)]


@pytest.fixture
def tree(tmp_path: Path) -> ImageTree:
    return read_image_tree(make_tree(tmp_path, count=10))


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_file_is_left_out_with_its_label(tree: ImageTree, content: bytes, workers: int) -> None:
    samples, bad = tree.evaluation, [9, 10]
    wanted = list(ImageBatches(samples, CONFIG, 4))
    for index in bad:
        samples.files[index].write_bytes(content)
    batches = ImageBatches(samples, CONFIG, 4, workers, unreadable=Unreadable(30, limit=0.1))
    for _ in range(2):
        found = list(batches)
        assert [len(labels) for _, labels in found] == [4, 4, 2, 4, 4, 4, 4, 2]
        assert torch.equal(found[2][0], wanted[2][0][[0, 3]])
        labels = torch.cat([labels for _, labels in found]).tolist()
        assert labels == [label for i, label in enumerate(samples.labels) if i not in bad]
    assert list(batches.unreadable.reasons) == [samples.files[i] for i in bad]
    root = samples.root
    line = f"skipped 2 of 30 images in {root} that cannot be read: a/9.png, b/0.png"
    assert batches.unreadable.describe(root) == line


def test_a_file_that_comes_back_is_not_read_again(tree: ImageTree) -> None:
    file = tree.evaluation.files[3]
    whole = file.read_bytes()
    file.write_bytes(b"")
    batches = ImageBatches(tree.evaluation, CONFIG, 4, unreadable=Unreadable(30, limit=0.1))
    assert sum(len(labels) for _, labels in batches) == 29
    file.write_bytes(whole)
    assert sum(len(labels) for _, labels in batches) == 29


@pytest.mark.parametrize("size", [1, 4])
def test_parts_share_what_cannot_be_read_and_accuracy_is_of_the_rest(tree: ImageTree, size: int) -> None:
    samples = tree.evaluation
    for index in (4, 5, 21):
        samples.files[index].write_bytes(b"")
    batches = ImageBatches(samples, CONFIG, size, unreadable=Unreadable(30, limit=0.1))
    parts = [list(batches.shard(number, 2)) for number in range(2)]
    assert len(batches.unreadable) == 3
    assert sum(len(labels) for part in parts for _, labels in part) == 27

    def guess(images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(images), 3)

    result = evaluate(guess, batches)
    assert result.count == 27
    assert result.top1 == pytest.approx(100 * 8 / 27)  # of class 0 two are lost


def test_too_many_stop_the_iteration(tree: ImageTree) -> None:
    files = tree.evaluation.files
    for index in range(3):
        files[index].write_bytes(b"")
    assert sum(len(labels) for _, labels in ImageBatches(tree.evaluation, CONFIG, 4, unreadable=Unreadable(300))) == 27
    files[29].write_bytes(b"")
    message = rf"^4 of 300 images cannot be read, more than 1 %\. The first: cannot read the image '{files[0]}'"
    with pytest.raises(InputError, match=message):
        list(ImageBatches(tree.evaluation, CONFIG, 4, unreadable=Unreadable(300)))
    with pytest.raises(InputError, match=r"^3 of 30 images cannot be read, more than 1 %"):
        list(ImageBatches(tree.evaluation, CONFIG, 4))


@pytest.mark.parametrize(
    ("held", "limit", "found", "allowed"),
    [
        (99, 0.01, 0, 0),
        (100, 0.01, 0, 1),
        (700, 0.01, 0, 7),
        (32, 0.01, 99, 0),
        (32, 0.01, 100, 1),  # a small draw of a folder in which one is no more than the limit
        (32, 0.01, 10_000, 1),
        (10_000, 0.0, 10_000, 0),
        (100, 0.29, 100, 29),
    ],
)
def test_how_many_may_be_lost(held: int, limit: float, found: int, allowed: int) -> None:
    assert Unreadable(held, limit=limit, found=found).allowed == allowed


def test_batches_without_what_cannot_be_read_are_full(tree: ImageTree) -> None:
    tree.evaluation.files[0].write_bytes(b"")
    batches = ImageBatches(tree.evaluation, CONFIG, 4, unreadable=Unreadable(30, found=100))
    readable = batches.without(batches.find_unreadable())
    assert [len(labels) for _, labels in readable] == [4] * 7 + [1]
    assert readable.count == 29
    assert readable.unreadable is batches.unreadable


def test_many_names_are_shortened() -> None:
    root = Path("root")
    unreadable = Unreadable(100, {root / f"{i}.png": "" for i in range(7)})
    assert unreadable.describe(root).endswith(": 0.png, 1.png, 2.png, 3.png, 4.png and 2 more")


def test_a_model_of_one_channel_gets_grey_images_and_one_mean(tree: ImageTree) -> None:
    model = timm.create_model("vit_tiny_patch16_224", in_chans=1, img_size=32, depth=1)
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": (0.3, 0.4, 0.8), "std": (0.1, 0.2, 0.3)}
    config = resolve_data_config(model, 32)
    assert config.input_size == (1, 32, 32)
    assert config.mean == pytest.approx((0.5,))
    assert config.std == pytest.approx((0.2,))
    images, _ = next(iter(ImageBatches(tree.evaluation, config, 4)))
    assert images.shape == (4, 1, 32, 32)
    assert resolve_data_config(model).input_size == (1, 224, 224)


def test_other_channels_than_files_have_are_refused(tree: ImageTree) -> None:
    model = timm.create_model("vit_tiny_patch16_224", in_chans=4, img_size=32, depth=1)
    config = resolve_data_config(model, 32)
    assert len(config.mean) == len(config.std) == 4
    with pytest.raises(InputError, match="the model takes 4"):
        ImageBatches(tree.evaluation, config, 4)
