"""Image folders: how trees are understood, which images are drawn, what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from timm.data import create_transform

from fxquant.data.batches import ImageBatches
from fxquant.data.data_config import DataConfig
from fxquant.data.folder import (
    ImageTree,
    check_classes,
    draw_images,
    index_classes_by,
    read_class_names,
    read_image_tree,
)
from fxquant.errors import InputError

CONFIG = DataConfig((3, 8, 8), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), interpolation="bilinear", crop_pct=0.5)


def make_images(folder: Path, *names: str, mode: str = "RGB") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        Image.linear_gradient("L").resize((20 + index, 16)).convert(mode).save(folder / name)
    return folder


def make_tree(root: Path, classes: tuple[str, ...] = ("a", "b", "c"), count: int = 4) -> Path:
    for name in classes:
        make_images(root / name, *(f"{index}.png" for index in range(count)))
    return root


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_train_calibrates_and_val_evaluates(tmp_path: Path, name: str) -> None:
    make_tree(tmp_path / "train")
    make_tree(tmp_path / name, count=2)
    tree = read_image_tree(tmp_path)
    assert tree.calibration.root == tmp_path / "train"
    assert tree.evaluation.root == tmp_path / name
    assert not tree.shared
    assert (len(tree.calibration), len(tree.evaluation)) == (12, 6)
    assert tree.classes == ("a", "b", "c")
    assert tree.evaluation.labels == (0, 0, 1, 1, 2, 2)
    assert tree.evaluation.names() == ["a/0.png", "a/1.png", "b/0.png", "b/1.png", "c/0.png", "c/1.png"]
    assert tree.notes == ()


def test_one_part_alone_serves_both_purposes(tmp_path: Path) -> None:
    make_tree(tmp_path / "val")
    tree = read_image_tree(tmp_path)
    assert tree.shared
    assert tree.calibration.root == tree.evaluation.root == tmp_path / "val"


def test_class_folders_may_be_called_like_parts(tmp_path: Path) -> None:
    tree = read_image_tree(make_tree(tmp_path, classes=("bus", "test", "train")))
    assert tree.shared
    assert tree.classes == ("bus", "test", "train")


def test_folders_without_images_keep_their_index(tmp_path: Path) -> None:
    make_tree(tmp_path, classes=("a", "c"))
    (tmp_path / "b").mkdir()
    (tmp_path / ".cache").mkdir()
    tree = read_image_tree(tmp_path)
    assert tree.classes == ("a", "b", "c")
    assert set(tree.evaluation.labels) == {0, 2}


def test_parts_with_different_classes_share_one_index_and_say_so(tmp_path: Path) -> None:
    make_tree(tmp_path / "train", classes=("a", "b", "c"))
    make_tree(tmp_path / "val", classes=("b", "c"))
    tree = read_image_tree(tmp_path)
    assert set(tree.evaluation.labels) == {1, 2}
    assert tree.notes == (
        "calibration and evaluation folders differ in their classes; indices are those of all 3 together",
    )


def test_numbers_in_names_sort_as_timm_does_and_a_class_map_decides(tmp_path: Path) -> None:
    make_tree(tmp_path / "images", classes=("c10", "c2"))
    tree = read_image_tree(tmp_path / "images")
    assert tree.classes == ("c2", "c10")
    assert "2 before 10" in tree.notes[0]
    (tmp_path / "map.txt").write_text("c10\nother\nc2\n")
    tree = read_image_tree(tmp_path / "images", tmp_path / "map.txt")
    assert tree.classes == ("c10", "other", "c2")
    assert set(tree.evaluation.labels) == {0, 2}
    assert tree.notes == ()
    (tmp_path / "map.txt").write_text("c10\n")
    with pytest.raises(InputError, match="lacks 1 class folders, such as 'c2'"):
        read_image_tree(tmp_path / "images", tmp_path / "map.txt")


def test_images_lie_at_any_depth_and_hidden_files_do_not_count(tmp_path: Path) -> None:
    make_images(tmp_path / "a" / "deep" / "er", "1.PNG")
    make_images(tmp_path / "a", "._1.png", "2.webp")
    make_images(tmp_path / "a" / ".thumbnails", "3.png")
    (tmp_path / "a" / "notes.txt").write_text("")
    assert read_image_tree(tmp_path).evaluation.names() == ["a/2.webp", "a/deep/er/1.PNG"]


def test_what_is_not_a_tree_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{str(tmp_path / 'none')!r} does not exist"):
        read_image_tree(tmp_path / "none")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="file' is a file"):
        read_image_tree(file)
    (tmp_path / "more").touch()
    with pytest.raises(InputError, match=r"expected class folders.*found 2 files and no folders"):
        read_image_tree(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="empty', found nothing: the folder is empty"):
        read_image_tree(empty)
    (empty / "a").mkdir()
    with pytest.raises(InputError, match=r"class folders in .*empty' hold no images \(\.jpg"):
        read_image_tree(empty)


def test_unreadable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(tmp_path)

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("fxquant.data.folder.os.scandir", refuse)
    with pytest.raises(InputError, match=f"cannot read the folder {str(tmp_path)!r}: Permission denied"):
        read_image_tree(tmp_path)


def test_class_numbers_have_to_match(tmp_path: Path) -> None:
    tree = read_image_tree(make_tree(tmp_path))
    check_classes(tree, 3)
    with pytest.raises(
        InputError, match=r"has 3 classes \(a, b, c\), the model has num_classes 1000: .*--num-classes 3"
    ):
        check_classes(tree, 1000)
    check_classes(tree, 1000, mapped=True)
    with pytest.raises(InputError, match="the class map has 3 classes"):
        check_classes(tree, 2, mapped=True)


@pytest.fixture
def shared(tmp_path: Path) -> ImageTree:
    return read_image_tree(make_tree(tmp_path, count=5))


def test_draw_takes_every_class_in_turn_and_repeats(shared: ImageTree) -> None:
    calibration, evaluation = draw_images(shared, 6, seed=1)
    assert sorted(calibration.labels[:3]) == sorted(calibration.labels[3:]) == [0, 1, 2]
    assert draw_images(shared, 6, seed=1) == (calibration, evaluation)
    assert draw_images(shared, 6, seed=2)[0] != calibration
    assert draw_images(shared, 3, seed=1)[0].files == calibration.files[:3]


def test_draw_of_a_seed_is_the_same_on_every_machine(shared: ImageTree) -> None:
    assert draw_images(shared, 4, seed=0)[0].names() == ["a/1.png", "b/1.png", "c/4.png", "a/4.png"]


def test_draw_keeps_shared_images_apart_and_uses_all(shared: ImageTree) -> None:
    calibration, evaluation = draw_images(shared, 14)
    assert set(calibration.files).isdisjoint(evaluation.files)
    assert len(calibration) + len(evaluation) == 15


def test_limit_draws_from_all_classes(shared: ImageTree) -> None:
    calibration, evaluation = draw_images(shared, 3, limit=9)
    assert len(evaluation) == 9
    assert set(evaluation.labels) == {0, 1, 2}
    assert set(calibration.files).isdisjoint(evaluation.files)
    assert len(draw_images(shared, 3, limit=100)[1]) == 12


def test_draw_refuses_more_than_there_is(shared: ImageTree) -> None:
    with pytest.raises(
        InputError, match=r"asks for 15 images, .* holds 15, one of which .*: give a number from 1 to 14"
    ):
        draw_images(shared, 15)
    with pytest.raises(InputError, match="asks for -1 images"):
        draw_images(shared, -1)


def test_calibration_images_may_come_from_elsewhere(shared: ImageTree) -> None:
    calibration, evaluation = draw_images(shared, 0)
    assert (len(calibration), len(evaluation)) == (0, 15)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_timms_validation_images_in_order(shared: ImageTree, workers: int) -> None:
    batches = ImageBatches(shared.evaluation, CONFIG, batch_size=4, workers=workers)
    got = list(batches)
    assert len(got) == len(batches) == 4
    transform = create_transform(**CONFIG.as_timm())
    wanted = torch.stack([transform(Image.open(f).convert("RGB")) for f in shared.evaluation.files])
    assert torch.equal(torch.cat([images for images, _ in got]), wanted)
    assert torch.cat([labels for _, labels in got]).tolist() == list(shared.evaluation.labels)
    assert torch.equal(next(iter(batches))[0], got[0][0])  # can be iterated again


def test_shards_are_every_nth_batch(shared: ImageTree) -> None:
    batches = ImageBatches(shared.evaluation, CONFIG, batch_size=4)
    wanted = list(batches)
    shards = [batches.shard(number, 3) for number in range(3)]
    assert [len(shard) for shard in shards] == [2, 1, 1]
    assert sum(shard.count for shard in shards) == batches.count
    for number, shard in enumerate(shards):
        for (images, labels), (other_images, other_labels) in zip(shard, wanted[number::3], strict=True):
            assert torch.equal(images, other_images)
            assert torch.equal(labels, other_labels)
    assert list(batches.shard(4, 5)) == []


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1"])
def test_images_of_every_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    make_images(tmp_path / "a", "0.tif", mode=mode)
    [(images, _)] = ImageBatches(read_image_tree(tmp_path).evaluation, CONFIG, batch_size=1)
    assert images.shape == (1, 3, 8, 8)


def test_classes_are_indexed_by_a_models_names(tmp_path: Path) -> None:
    tree = read_image_tree(make_tree(tmp_path, count=2))
    assert tree.classes == ("a", "b", "c")
    found = index_classes_by(tree, ("c", "x", "a", "b"))
    assert found.classes == ("c", "x", "a", "b")
    assert found.evaluation.labels == (2, 2, 3, 3, 0, 0)
    assert found.evaluation.files == tree.evaluation.files
    with pytest.raises(InputError, match="which has no class 'b'"):
        index_classes_by(tree, ("a", "c"))
    with pytest.raises(InputError, match="two classes of one name"):
        index_classes_by(tree, ("a", "b", "c", "c"))


def test_class_names_of_a_map(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("b\na\n")
    assert read_class_names(file) == ("b", "a")
    with pytest.raises(InputError, match=r"expected a \.txt file"):
        read_class_names(tmp_path / "none.txt")
