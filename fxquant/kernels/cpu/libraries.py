"""Where the libraries of the kernels are: in the package, as wheels have them, or built by this machine's compiler and kept."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from fxquant.errors import ConfigError, reason_of
from fxquant.files import duplicate, new_folder
from fxquant.kernels.cpu import build
from fxquant.kernels.cpu.isa import ISAS, Isa, isas_here, usual_isa
from fxquant.kernels.cpu.kept_library import kept_library

PREBUILT = build.SOURCES / "libraries"
_SECONDS = {build.DISPATCH: 10, build.SCHEMAS: 10}
_KERNELS_SECONDS = 40
NOT_BUILT = f"{build.NO_COMPILER}; or install a wheel of fxquant, which has them built"


class UnavailableError(Exception):
    """A library is not there and cannot be built; the text says why."""


def kernels_name(isa: Isa) -> str:
    """Return the name of the library for `isa`, without its suffix."""
    return f"kernels_{isa.name}"


def prebuilt() -> tuple[Isa, ...]:
    """Return the sets whose libraries came with the package, of those that this machine can run."""
    return tuple(isa for isa in isas_here() if _prebuilt(kernels_name(isa)))


def kernels_library(isa: Isa) -> Path:
    """Return the library of the kernels for `isa`. Raises `UnavailableError`."""
    return _library(
        kernels_name(isa),
        (*build.KERNELS, *_headers()),
        build.flags_of(isa),
        lambda program, file: build.build_kernels(program, isa, file),
    )


def part_library(name: str) -> Path:
    """Return the library `build.DISPATCH` or `build.SCHEMAS`. Raises `UnavailableError`."""
    sources = (f"{name}.cpp", "operator_list.h", "schemas.inc")
    return _library(name, sources, build.flags_of(None), lambda program, file: build.build_part(program, name, file))


def expected(isa: Isa) -> str | None:
    """Return why there are no kernels for `isa`, as far as that is known without building them."""
    return None if _prebuilt(kernels_name(isa)) or build.compiler() else NOT_BUILT


def copy_libraries(folder: str | Path) -> list[Path]:
    """
    Write what a program without Python needs into a new `folder`: ``schemas.so``, ``dispatch.so``, and the kernels.

    A program loads the first two, in this order. The second takes the best kernels beside it that the processor can run. These
    are all that came with the package; of a checkout, those for this machine. Returns the files. Raises `ConfigError` where
    there are none.
    """
    usual = usual_isa()
    isas = prebuilt() or ((usual,) if usual else ())
    if not isas:
        raise ConfigError("fxquant has no kernels for this machine: see `fxquant env`")
    try:
        found = {name: part_library(name) for name in (build.SCHEMAS, build.DISPATCH)}
        found |= {kernels_name(isa): kernels_library(isa) for isa in isas}
    except UnavailableError as error:
        raise ConfigError(str(error)) from error
    to = Path(folder)
    with new_folder(to):
        for name, library in found.items():
            duplicate(library, to / f"{name}.so")
    return [to / f"{name}.so" for name in found]


def build_all(folder: Path) -> None:
    """Build the libraries for all sets of instructions of this kind of machine into `folder`, for a wheel."""
    program = build.compiler()
    if program is None:
        raise UnavailableError(build.NO_COMPILER)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (build.DISPATCH, build.SCHEMAS):
        build.build_part(program, name, folder / f"{name}.so")
    for isa in ISAS:
        if isa.machine == platform.machine():
            build.build_kernels(program, isa, folder / f"{kernels_name(isa)}.so")


def _prebuilt(name: str) -> Path | None:
    """Return the library that came with the package, unless other flags are asked for."""
    file = PREBUILT / f"{name}.so"
    return file if file.is_file() and not os.environ.get("FXQUANT_CXXFLAGS") else None


def _library(name: str, sources: Iterable[str], flags: Iterable[str], make: Callable[[str, Path], None]) -> Path:
    there = _prebuilt(name)
    if there is not None:
        return there
    program = build.compiler()
    if program is None:
        raise UnavailableError(NOT_BUILT)
    try:
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        texts = [(build.SOURCES / each).read_text(encoding="utf-8") for each in sorted(sources)]
        parts = [torch.__version__, version, *flags, *texts]
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        return kept_library(name, key, lambda file: make(program, file), _SECONDS.get(name, _KERNELS_SECONDS))
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", None) or reason_of(error)
        raise UnavailableError(f"{Path(program).name} could not build them: {detail.strip()}") from error


def _headers() -> list[str]:
    return [str(header.relative_to(build.SOURCES)) for header in build.SOURCES.rglob("*.h")]
