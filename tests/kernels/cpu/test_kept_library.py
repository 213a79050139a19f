"""Built libraries are kept: by one process for all, and what was damaged is built again."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fxquant.kernels.cpu.kept_library import kept_library


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fxquant"


def write(file: Path) -> None:
    file.write_bytes(b"a library")


def refuse(_: Path) -> None:
    raise AssertionError("it is there already")


def test_it_is_built_once_and_says_so(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = kept_library("kernels", "key", write, 40)
    assert kept.parent == cache
    assert kept.read_bytes() == b"a library"
    first, last = capsys.readouterr().err.splitlines()
    assert first == "fxquant: building kernels.so for this processor, about 40 s, once"
    assert last.startswith("fxquant: built in 0 s, kept as ")
    assert kept_library("kernels", "key", refuse, 40) == kept
    assert capsys.readouterr().err == ""
    assert kept_library("kernels", "other", write, 40) != kept
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".so", ".so"]


@pytest.mark.parametrize("damage", [b"", b"a lib", b"garbage!!"])
def test_a_damaged_one_is_built_again(cache: Path, damage: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    kept = kept_library("kernels", "key", write, 40)
    kept.write_bytes(damage)
    assert kept_library("kernels", "key", write, 40).read_bytes() == b"a library"
    assert "is damaged: it is removed" in capsys.readouterr().err
    assert len(list(cache.glob("*.so"))) == 1


def test_what_a_killed_build_left_is_removed_by_the_next(cache: Path) -> None:
    code = (
        "import os; from fxquant.kernels.cpu.kept_library import kept_library\n"
        "def die(file): file.write_bytes(b'half'); (file.parent / 'object.o').touch(); os.kill(os.getpid(), 9)\n"
        "kept_library('kernels', 'key', die, 40)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == -9
    assert len(list(cache.glob(".fxquant-*.tmp"))) == 1
    kept = kept_library("kernels", "key", write, 40)
    assert sorted(path.name for path in cache.iterdir()) == ["kernels.lock", kept.name]


def test_the_second_waits_and_takes_what_the_first_built(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = threading.Event()

    def build(file: Path) -> None:
        began.set()
        time.sleep(0.2)
        write(file)

    first = threading.Thread(target=kept_library, args=("kernels", "key", build, 40))
    first.start()
    began.wait()
    assert kept_library("kernels", "key", refuse, 40).read_bytes() == b"a library"
    first.join()
    assert "another process is building the kernels for this processor: waiting for it" in capsys.readouterr().err
