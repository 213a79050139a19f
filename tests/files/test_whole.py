"""Under a name there is the old file or the new one, and nothing beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fxquant.files import duplicate, write_atomically


def test_the_new_file_has_usual_permissions_and_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_atomically(tmp_path / "link", lambda name: Path(name).write_text("new"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    (tmp_path / "other").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "other"]


def test_whatever_fails_the_old_file_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    def fail(name: str) -> None:
        Path(name).write_text("half")
        (Path(name).parent / "of-a-library").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", fail)
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_file_and_folder_reach_the_disk_around_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        done.append(f"flush {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_atomically(tmp_path / "a.txt", lambda name: Path(name).write_text("a"))
    assert done == ["flush new.txt", "rename", f"flush {tmp_path.name}"]


def test_duplicates_are_copies_where_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("new")
    for name in ("b", "c"):
        (tmp_path / name).write_text("old")
        duplicate(tmp_path / "a", tmp_path / name)
        assert (tmp_path / name).read_text() == "new"

        def fail(*_: object) -> None:
            raise OSError("not supported")

        monkeypatch.setattr(os, "link", fail)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]
