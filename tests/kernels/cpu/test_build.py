"""The kernels are built once per machine, and where they cannot be, a reason says so and torch's operators run."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fxquant.kernels import cpu
from fxquant.kernels.cpu import build
from fxquant.ops import quantize

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "clang++", "c++")), reason="no C++ compiler"
)
obstacle = build.obstacle.__wrapped__  # asked anew each time


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let this machine have all features, no library yet and sources that say nothing; return the cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(build.NEEDED, True))
    write_source(monkeypatch, tmp_path, 'extern "C" int nothing() { return 0; }\n')
    return tmp_path / "cache" / "fxquant"


def write_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "sources"
    folder.mkdir(exist_ok=True)
    (folder / "operators.cpp").write_text(text)
    monkeypatch.setattr(build, "SOURCES", folder)


def libraries(cache: Path) -> list[Path]:
    return list(cache.glob("*.so"))


def left(cache: Path) -> list[str]:
    """Return what is in the cache folder beside its lock."""
    return [path.name for path in cache.iterdir() if path.name != "kernels.lock"]


def compiler(folder: Path, script: str) -> str:
    """Write a program that stands in for a compiler."""
    path = folder / "c++-for-tests"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_processor_without_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"avx512_f": True, "avx512_bw": True, "avx512_vl": True, "avx512_dq": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: there)
    assert obstacle() == "the processor has no avx512_dq, avx512_vnni"


def test_no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert obstacle() == "no C++ compiler was found: install g++ or clang++, or name one in CXX"
    assert not cache.exists()


@needs_compiler
def test_built_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert obstacle() is None
    (library,) = libraries(cache)
    written = library.stat().st_mtime_ns

    def refuse(*_: Any) -> None:
        raise AssertionError("it is there already")

    monkeypatch.setattr(build, "_compile", refuse)
    assert obstacle() is None
    assert [f.stat().st_mtime_ns for f in libraries(cache)] == [written]


@needs_compiler
def test_other_sources_are_another_library(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert obstacle() is None
    write_source(monkeypatch, tmp_path, 'extern "C" int something() { return 1; }\n')
    assert obstacle() is None
    assert len(libraries(cache)) == 2
    (tmp_path / "sources" / "more.h").write_text("// a header counts too\n")
    assert obstacle() is None
    assert len(libraries(cache)) == 3


@needs_compiler
def test_broken_sources(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_source(monkeypatch, tmp_path, "this is no C++;\n")
    with caplog.at_level(logging.WARNING, logger=build.__name__):
        message = obstacle()
    assert message is not None
    assert "could not build them: " in message
    assert "\n" not in message
    assert "torch's operators run instead" in caplog.text
    assert left(cache) == [], "nothing half-written stays"
    monkeypatch.setattr(cpu, "is_available", lambda: build.obstacle.__wrapped__() is None)
    codes = quantize(torch.tensor([0.1, 0.26]), torch.tensor(0.1), None, -128, 127)
    assert codes.tolist() == [1, 3]


def test_a_compiler_that_fails(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = 'if [ "$1" = "--version" ]; then echo 1.0; exit 0; fi\necho "out of space" >&2; exit 1'
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    assert obstacle() == "c++-for-tests could not build them: out of space"
    assert left(cache) == []


def test_a_compiler_that_does_not_start(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, "exit 3"))
    message = obstacle()
    assert message is not None
    assert message.startswith("c++-for-tests could not build them: ")
    assert "3" in message


def test_a_compiler_killed_while_it_writes_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = (
        'if [ "$1" = "--version" ]; then echo 1.0; exit 0; fi\n'
        'while [ "$1" != "-o" ]; do shift; done; echo half > "$2"; kill -9 $$'
    )
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    message = obstacle()
    assert message is not None
    assert left(cache) == []


def test_a_library_that_cannot_be_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = (
        'if [ "$1" = "--version" ]; then echo 1.0; exit 0; fi\n'
        'while [ "$1" != "-o" ]; do shift; done; echo "no library" > "$2"'
    )
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    message = obstacle()
    assert message is not None
    assert message.startswith("c++-for-tests could not build them: ")


def test_a_cache_that_cannot_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, "echo 1.0; exit 0"))
    cache.parent.write_text("a file where the folder should be")
    message = obstacle()
    assert message is not None
    assert "could not build them: " in message


def test_a_compiler_that_cxx_names_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "my-compiler")
    assert build._compilers() == ("my-compiler", "g++", "clang++", "c++")
    monkeypatch.delenv("CXX")
    assert build._compilers() == ("g++", "clang++", "c++")


def test_available_means_no_obstacle() -> None:
    assert cpu.is_available() == (cpu.obstacle() is None)
