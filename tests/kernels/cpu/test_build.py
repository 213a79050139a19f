"""The libraries of the kernels come with the package, or are built once per machine; where they cannot be, a reason says so."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch

from fxquant.errors import ConfigError
from fxquant.kernels import cpu
from fxquant.kernels.cpu import build, isa, libraries, loading
from fxquant.kernels.cpu.isa import ISAS
from fxquant.kernels.cpu.libraries import UnavailableError
from fxquant.ops import quantize

needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")
ISA = ISAS[-2]._replace(name="nothing", flags=())
obstacle = loading.obstacle.__wrapped__  # asked anew each time


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let this machine have no library yet and sources that say nothing; return the cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(libraries, "PREBUILT", tmp_path / "none")
    monkeypatch.setattr(isa, "usual_isa", lambda: ISA)
    monkeypatch.setattr(loading, "_in_use", None)
    write_source(monkeypatch, tmp_path, 'extern "C" int nothing() { return 0; }\n')
    return tmp_path / "cache" / "fxquant"


def write_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "sources"
    folder.mkdir(exist_ok=True)
    for name in build.KERNELS:
        (folder / name).write_text("")
    (folder / build.KERNELS[0]).write_text(text)
    monkeypatch.setattr(build, "SOURCES", folder)


def kernels() -> Path:
    return libraries.kernels_library(ISA)


def kept(cache: Path) -> list[Path]:
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


def why() -> str:
    """Return why there is no library."""
    with pytest.raises(UnavailableError) as raised:
        kernels()
    return str(raised.value)


def test_a_machine_without_kernels(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_f": True})
    isa.isas_here.cache_clear()
    try:
        assert [each.name for each in isa.isas_here()] == ["portable"]
        assert isa.usual_isa() is None
        assert obstacle() == loading.NO_KERNELS
        assert "torch's operators do instead: fxquant has kernels for" in caplog.text
        with pytest.raises(ConfigError, match="cannot run 'avx2', it has no fma3: it can run 'portable'"):
            isa.isa_named("avx2")
    finally:
        isa.isas_here.cache_clear()


def test_no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert obstacle() == libraries.NOT_BUILT
    assert libraries.expected(ISA) == libraries.NOT_BUILT
    assert not cache.exists()


def test_what_comes_with_the_package_needs_no_compiler(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(libraries, "PREBUILT", tmp_path)
    (tmp_path / "kernels_nothing.so").touch()
    assert kernels() == tmp_path / "kernels_nothing.so"
    assert libraries.expected(ISA) is None
    monkeypatch.setenv("FXQUANT_CXXFLAGS", "-g")  # which asks for another library than that
    assert why() == libraries.NOT_BUILT


@needs_compiler
def test_built_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = kernels()
    written = library.stat().st_mtime_ns

    def refuse(*_: object) -> None:
        raise AssertionError("it is there already")

    monkeypatch.setattr(build, "_build", refuse)
    assert kernels() == library
    assert [f.stat().st_mtime_ns for f in kept(cache)] == [written]


@needs_compiler
def test_other_sources_are_another_library(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernels()
    write_source(monkeypatch, tmp_path, 'extern "C" int something() { return 1; }\n')
    kernels()
    assert len(kept(cache)) == 2
    (tmp_path / "sources" / "more.h").write_text("// a header counts too\n")
    kernels()
    assert len(kept(cache)) == 3


@needs_compiler
def test_broken_sources(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_source(monkeypatch, tmp_path, "this is no C++;\n")
    with caplog.at_level(logging.WARNING, logger=loading.__name__):
        message = obstacle()
    assert message is not None
    assert "could not build them: " in message
    assert "\n" not in message
    assert "torch's operators do instead" in caplog.text
    assert left(cache) == [], "nothing half-written stays"
    monkeypatch.setattr(cpu, "is_available", lambda: obstacle() is None)
    codes = quantize(torch.tensor([0.1, 0.26]), torch.tensor(0.1), None, -128, 127)
    assert codes.tolist() == [1, 3]


def test_a_compiler_that_fails(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = 'if [ "$1" = "--version" ]; then echo 1.0; exit 0; fi\necho "out of space" >&2; exit 1'
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    assert why() == "c++-for-tests could not build them: out of space"
    assert left(cache) == []


def test_a_compiler_that_does_not_start(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, "exit 3"))
    assert why().startswith("c++-for-tests could not build them: ")


def test_a_compiler_killed_while_it_writes_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = (
        'if [ "$1" = "--version" ]; then echo 1.0; exit 0; fi\n'
        'while [ "$1" != "-o" ]; do shift; done; echo half > "$2"; kill -9 $$'
    )
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    assert why()
    assert left(cache) == []


def test_a_library_that_cannot_be_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = (
        'if [ "$1" = "--version" ]; then echo 1.0; exit 0; fi\n'
        'while [ "$1" != "-o" ]; do shift; done; echo "no library" > "$2"'
    )
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    assert obstacle() is not None


@needs_compiler
def test_a_library_of_something_else(cache: Path) -> None:
    assert (obstacle() or "").endswith("is no library of fxquant's kernels")


def test_a_cache_that_cannot_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, "echo 1.0; exit 0"))
    cache.parent.write_text("a file where the folder should be")
    assert "could not build them: " in why()


def test_a_compiler_that_cxx_names_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name != "g++" else None)
    monkeypatch.setenv("CXX", "my-compiler")
    assert build.compiler() == "/bin/my-compiler"
    monkeypatch.delenv("CXX")
    assert build.compiler() == "/bin/clang++"


def test_available_means_no_obstacle() -> None:
    assert cpu.is_available() == (cpu.obstacle() is None)
