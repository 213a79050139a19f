"""The C++ kernels, built with the sanitizers for addresses and for undefined behaviour, pass their tests without a report."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fxquant.kernels.cpu import build
from fxquant.kernels.cpu.isa import isas_here
from tests.support.needs_cpu_kernels import needs_kernels

ROOT = Path(__file__).parents[3]
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1"
FILES = ("attention", "layer_norm", "learned_step", "operators", "tokens", "variation", "weight_scales")
PLUGINS = ("randomly", "cacheprovider", "faulthandler", "xdist")  # not needed, or in the way of a report
# Its thousand turns take minutes without the optimiser.
TOO_LONG = "not a_search_of_more_than_a_thousand_turns"


def preloaded(compiler: str) -> str | None:
    """Return the runtime of the sanitizer, which has to be there before Python is, with C++'s, whose exceptions it watches."""
    found = [
        Path(
            subprocess.run(
                [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
            ).stdout.strip()
        )
        for name in ("libasan.so", "libstdc++.so")
    ]
    return " ".join(map(str, found)) if all(path.is_absolute() for path in found) else None


@needs_kernels
@pytest.mark.long
@pytest.mark.parametrize("name", [isa.name for isa in isas_here() if isa.name == "avx2" or isa is isas_here()[0]])
def test_no_sanitizer_reports_anything(name: str, tmp_path: Path) -> None:
    compiler = build.compiler()
    libraries = None if compiler is None else preloaded(compiler)
    if libraries is None:
        pytest.skip("the compiler has no address sanitizer of GCC's")
    tests = ["tests/kernels/test_checks.py", *(f"tests/kernels/cpu/test_{name}.py" for name in FILES)]
    options = ["-q", "-s", "-x", "-rs", *(f"-pno:{name}" for name in PLUGINS)]
    environment = os.environ | {
        "FXQUANT_CXXFLAGS": FLAGS,
        "FXQUANT_ISA": name,
        "XDG_CACHE_HOME": str(tmp_path),
        "LD_PRELOAD": libraries,
        # torch keeps memory until the end, and is asked for more than there is.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    command = [sys.executable, "-m", "pytest", *options, "-k", TOO_LONG, *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-10_000:]
    assert "SKIPPED" not in done.stdout
    assert list((tmp_path / "fxquant").glob("kernels_*.so"))
