"""Build the C++ kernels with the compiler of the machine, once, and load them."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import torch

from fxquant.kernels.cpu.kept_library import kept_library

SOURCES = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-std=c++17", "-fPIC", "-shared")
# Features the kernels are written for; avx512_bf16 makes them faster where it is there.
NEEDED = ("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx512_vnni")

NO_COMPILER = "no C++ compiler was found: install g++ or clang++, or name one in CXX"

logger = logging.getLogger(__name__)


def is_available() -> bool:
    """Say whether the kernels run here. The first call builds them, which takes some seconds."""
    return obstacle() is None


@functools.cache
def obstacle() -> str | None:
    """Return why the kernels cannot run on this machine, or None once they are built and loaded."""
    missing = _missing_features()
    if missing is not None:
        return missing
    compiler = _compiler()
    if compiler is None:
        logger.warning("fxquant's kernels for this processor do not run, torch's operators do instead: %s", NO_COMPILER)
        return NO_COMPILER
    try:
        torch.ops.load_library(str(_library(compiler)))
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        logger.warning(
            "fxquant's kernels for this processor cannot be built, torch's operators run instead: %s", detail
        )
        return f"{Path(compiler).name} could not build them: {detail.strip().partition(chr(10))[0]}"
    return None


def expected_obstacle() -> str | None:
    """Return what `obstacle` would return, as far as that is known without building the kernels."""
    if obstacle.cache_info().currsize:
        return obstacle()
    return _missing_features() or (NO_COMPILER if _compiler() is None else None)


def _missing_features() -> str | None:
    missing = [name for name in NEEDED if not torch.cpu.get_capabilities().get(name)]
    return f"the processor has no {', '.join(missing)}" if missing else None


def _compiler() -> str | None:
    return next((path for name in _compilers() if (path := shutil.which(name))), None)


def _compilers() -> tuple[str, ...]:
    return tuple(filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++")))


def _flags() -> tuple[str, ...]:
    """Return what the compiler is told. FXQUANT_CXXFLAGS adds flags, which make another library, such as one with checks."""
    return (*FLAGS, *shlex.split(os.environ.get("FXQUANT_CXXFLAGS", "")))


def _library(compiler: str) -> Path:
    """Return the built library. It comes from the cache if this machine has built these sources before."""
    sources = sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp")])
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    features = sorted(name for name, there in torch.cpu.get_capabilities().items() if there is True)
    parts = [torch.__version__, version, *_flags(), *features, *(s.read_text(encoding="utf-8") for s in sources)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return kept_library(digest, lambda file: _compile(compiler, file))


def _compile(compiler: str, file: Path) -> None:
    package = Path(torch.__file__).parent
    include = [f"-I{package / 'include'}", f"-I{package / 'include/torch/csrc/api/include'}"]
    libraries = [f"-L{package / 'lib'}", "-ltorch_cpu", "-ltorch", "-lc10"]
    sources = [str(source) for source in sorted(SOURCES.glob("*.cpp"))]
    command = [compiler, *_flags(), *include, *sources, "-o", str(file), *libraries]
    # The compiler's own temporary files lie beside the library, so that they go with it where it is killed.
    environment = {**os.environ, "TMPDIR": str(file.parent)}
    subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
