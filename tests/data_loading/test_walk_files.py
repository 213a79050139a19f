"""Links are followed once, and never in a circle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fxquant.data.folder import read_image_tree
from fxquant.data.pixels import open_image
from fxquant.data.walk_files import walk_files
from fxquant.errors import InputError
from tests.data_loading.test_folder import make_images, make_tree


def names(root: Path, folder: str) -> list[str]:
    return sorted(file.relative_to(root).as_posix() for file in walk_files(root / folder, root))


def test_links_that_lead_back_are_cut(tmp_path: Path) -> None:
    make_images(tmp_path / "a" / "deep", "1.png")
    (tmp_path / "a" / "deep" / "up").symlink_to("..")
    (tmp_path / "a" / "deep" / "top").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to("self")
    assert names(tmp_path, "a") == ["a/deep/1.png", "a/self"]


def test_a_folder_that_several_links_lead_to_counts_once(tmp_path: Path) -> None:
    make_images(tmp_path / "elsewhere", "1.png")
    (tmp_path / "data" / "a").mkdir(parents=True)
    for name in ("x", "y"):
        (tmp_path / "data" / "a" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    assert len(names(tmp_path / "data", "a")) == 1


def test_a_link_to_a_class_folder_is_a_class_and_one_to_the_tree_is_none(tmp_path: Path) -> None:
    make_tree(tmp_path / "data", classes=("a",))
    make_images(tmp_path / "elsewhere", "1.png")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "c").symlink_to(tmp_path)
    (tmp_path / "data" / "d").symlink_to(".")
    tree = read_image_tree(tmp_path / "data")
    assert tree.classes == ("a", "b")
    assert len(tree.evaluation) == 5


def test_a_pipe_is_no_image_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("none.png")
    for name in ("pipe.png", "link.png"):
        with pytest.raises(InputError, match="it is no file, or a link to none"):
            open_image(tmp_path / name)
