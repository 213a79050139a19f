"""Which files of a folder are images: those that can be read are taken, the others are counted by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fxquant.data import IMG_EXTENSIONS, read_image_tree
from fxquant.data.formats import count_left_out, describe_left_out
from fxquant.errors import InputError


def test_what_pillow_decodes_is_an_image() -> None:
    assert {".jpg", ".png", ".gif", ".webp", ".avif", ".bmp", ".jfif", ".tif"} <= set(IMG_EXTENSIONS)
    assert not {".heic", ".pdf", ".eps", ".txt", ".mpg"} & set(IMG_EXTENSIONS)


def test_images_that_cannot_be_read_are_counted_by_ending(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("1.HEIC", "2.heic", "3.jxl", "Thumbs.db", ".4.heic"):
        (tmp_path / "a" / name).touch()
    with pytest.raises(
        InputError, match=r"hold no images \(\.jpg.*\), but 3 images that cannot be read here \(2 \.heic"
    ):
        read_image_tree(tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "a" / "5.gif")
    tree = read_image_tree(tmp_path)
    assert tree.evaluation.names() == ["a/5.gif"]
    images = "3 images that cannot be read here (2 .heic, 1 .jxl): convert them to .png or .jpg"
    assert tree.notes == (f"left out {images}; 1 file of other formats (1 .db)",)
    (tmp_path / "a" / "2.heic").unlink()
    (tmp_path / "a" / "3.jxl").unlink()
    assert read_image_tree(tmp_path).notes[0].startswith("left out 1 image that cannot be read here (1 .heic)")


def test_each_part_of_a_folder_is_counted(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / part / "a" / "1.png")
        (tmp_path / part / "a" / "2.heic").touch()
    assert read_image_tree(tmp_path).notes[0].startswith("left out 2 images")


def test_the_most_frequent_of_many_endings_are_named() -> None:
    counts = count_left_out(Path(name) for name in ["a", *("b.txt",) * 3, *(f"c.{index}" for index in range(8))])
    listed = "3 .txt, 1 without ending, 1 .0, 1 .1, 1 .2, 1 .3, 1 .4, 1 .5 and 2 more endings"
    assert describe_left_out(counts) == f"12 files of other formats ({listed})"
