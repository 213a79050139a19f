"""Build the C++ kernels: one library for each set of instructions, and one that calls whichever is in use."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from fxquant.kernels.cpu.isa import Isa

SOURCES = Path(__file__).parent
# Headers of torch 2.11 are the oldest whose stable interface is asked for: what is built runs with any later torch.
FLAGS = (
    *("-O3", "-ffp-contract=off", "-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-gnu-unique"),
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
)
DISPATCH, SCHEMAS = "dispatch", "schemas"  # libraries beside those of the kernels
KERNELS = ("learned_step.cpp", "operators.cpp", "table.cpp", "variation.cpp", "weight_scales.cpp")

NO_COMPILER = (
    "no C++ compiler was found: install g++ or clang++, name one in CXX, or install a wheel, which has them built"
)


def compiler() -> str | None:
    """Return the C++ compiler of this machine: the one that CXX names, or the first of the usual ones."""
    names = filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++"))
    return next((path for name in names if (path := shutil.which(name))), None)


def flags_of(isa: Isa | None) -> tuple[str, ...]:
    """Return what the compiler is told. FXQUANT_CXXFLAGS adds flags, which make another library, such as one with checks."""
    return (*FLAGS, *(isa.flags if isa else ()), *shlex.split(os.environ.get("FXQUANT_CXXFLAGS", "")))


def build_kernels(program: str, isa: Isa, file: Path) -> None:
    """Build the kernels for `isa` by the compiler `program`. Raises `OSError` or `subprocess.CalledProcessError`."""
    _build(program, KERNELS, flags_of(isa), file)


def build_part(program: str, name: str, file: Path) -> None:
    """Build the library `DISPATCH` or `SCHEMAS`."""
    _build(program, (f"{name}.cpp",), (*flags_of(None), "-ldl"), file)


def _build(program: str, sources: Sequence[str], flags: Sequence[str], file: Path) -> None:
    package = Path(torch.__file__).parent
    include = [f"-I{package / 'include'}", f"-I{package / 'include/torch/csrc/api/include'}"]
    libraries = [f"-L{package / 'lib'}", "-ltorch_cpu", "-ltorch", "-lc10"]
    command = [program, *flags, *include, *(str(SOURCES / each) for each in sources), "-o", str(file), *libraries]
    # The compiler's own temporary files lie beside the library, so that they go with it where it is killed.
    environment = {**os.environ, "TMPDIR": str(file.parent)}
    subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
