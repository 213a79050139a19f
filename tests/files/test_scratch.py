"""Folders of work in progress: those of the living stay, those of the dead go, whoever made them."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fxquant.files import scratch, scratch_folder


def start_holder(parent: Path) -> subprocess.Popen[bytes]:
    """Return a process that holds a folder with a file in it."""
    code = (
        "import sys, time; from fxquant.files import scratch_folder\n"
        "with scratch_folder(sys.argv[1]) as folder:\n"
        "    (folder / 'half').write_text('half'); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(parent)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_it_is_gone_after_the_block_however_it_ends(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as folder:
        assert folder.parent == tmp_path
        (folder / "deep").mkdir()
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), scratch_folder(tmp_path):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_that_of_a_living_process_stays_and_that_of_a_killed_one_goes(tmp_path: Path) -> None:
    holder = start_holder(tmp_path)
    (held,) = tmp_path.iterdir()
    with scratch_folder(tmp_path) as own:
        assert {held, own} == set(tmp_path.iterdir())
    assert (held / "half").exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert held.exists()
    with scratch_folder(tmp_path) as own:
        assert list(tmp_path.iterdir()) == [own]


def test_one_without_a_lock_or_of_another_form_is_left_over(tmp_path: Path) -> None:
    (tmp_path / ".fxquant-0.tmp").mkdir()
    (tmp_path / ".fxquant-1.tmp").write_text("a file")
    (tmp_path / ".fxquant-of-mine").write_text("of somebody else")
    with scratch_folder(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".fxquant-of-mine"]


def test_one_that_is_removed_while_it_is_made_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, taken = os.open, list[Path]()

    def open_late(path: Any, *args: Any) -> int:
        if Path(path).name == ".lock" and not taken:
            taken.append(Path(path).parent)
            taken[0].rmdir()
        return opened(path, *args)

    monkeypatch.setattr(os, "open", open_late)
    with scratch_folder(tmp_path) as folder:
        assert folder != taken[0]
        assert folder.is_dir()


def test_without_locks_age_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    young, old = tmp_path / ".fxquant-0.tmp", tmp_path / ".fxquant-1.tmp"
    for folder in (young, old):
        folder.mkdir()
        (folder / ".lock").touch()
    long_ago = time.time() - scratch._ABANDONED_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    with scratch_folder(tmp_path) as own:
        assert {young, own} == set(tmp_path.iterdir())


def test_what_may_not_be_removed_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".fxquant-0.tmp").mkdir()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(scratch, "_remove_unless_held", refuse)
    with scratch_folder(tmp_path) as folder:
        assert folder.is_dir()
