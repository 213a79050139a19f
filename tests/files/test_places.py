"""Places are refused before the work, and folders that nothing came into do not stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fxquant.errors import InputError
from fxquant.files import new_folder, refuse_folder, refuse_unwritable


def test_files_that_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_unwritable(tmp_path / "file")
    with pytest.raises(InputError, match="it is a folder"):
        refuse_unwritable(tmp_path)
    with pytest.raises(InputError, match="its folder does not exist"):
        refuse_unwritable(tmp_path / "none" / "file")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="it is no regular file"):
        refuse_unwritable(tmp_path / "pipe")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=r"cannot write .*: Read-only file system"):
        refuse_unwritable(tmp_path / "file")


def test_folders_that_could_not_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_folder(tmp_path)
    refuse_folder(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot make the folder .*file' is a file"):
        refuse_folder(tmp_path / "file" / "b")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="cannot be written to"):
        refuse_folder(tmp_path / "a")


def fail_in(folder: Path, *names: str) -> None:
    with new_folder(folder):
        assert folder.is_dir()
        for name in names:
            (folder / name).touch()
        raise KeyboardInterrupt


def test_what_is_still_empty_is_removed_where_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_in(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        fail_in(tmp_path / "a" / "b", "kept")
    assert (tmp_path / "a" / "b" / "kept").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fail_in(tmp_path / "there")
    assert (tmp_path / "there").is_dir()
    with new_folder(tmp_path / "done"):
        pass
    assert (tmp_path / "done").is_dir()
