"""The kernels make the same codes and the same float results, bit for bit, on every set of instructions, and on ARM."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fxquant.kernels.cpu import ISAS, Isa, build
from fxquant.kernels.cpu.isa import missing_here

SOURCE = Path(__file__).parent / "elsewhere/codes.cpp"
FLAGS = ("-O2", "-ffp-contract=off", "-std=c++17", f"-I{build.SOURCES}")
ARM = ("aarch64-linux-gnu-g++", "qemu-aarch64")
PORTABLE = next(isa for isa in ISAS if isa.name == "portable")
# Those with bfloat16 products are the same source; attention alone differs, which is not among what is printed.
OTHERS = [isa for isa in ISAS if isa is not PORTABLE and not missing_here(isa)]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(build.compiler() is None or bool(missing_here(PORTABLE)), reason="needs Linux on x86 and g++"),
]


def lines(program: str, flags: tuple[str, ...], folder: Path, *runner: str) -> list[str]:
    """Return what the kernels, built by `program` with `flags`, print."""
    file = folder / "codes"
    subprocess.run([program, *FLAGS, *flags, str(SOURCE), "-o", str(file)], check=True, capture_output=True)
    done = subprocess.run([*runner, str(file)], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return lines(str(build.compiler()), PORTABLE.flags, tmp_path_factory.mktemp("portable"))


def test_products_are_those_of_whole_numbers(reference: list[str]) -> None:
    products = [line for line in reference if line.startswith("products")]
    assert len(products) == 672
    assert all(line.endswith(": 0 wrong") for line in products)
    assert len({line.partition(":")[2] for line in reference if line.startswith("values")}) == 18


@pytest.mark.parametrize("isa", OTHERS, ids=lambda isa: isa.name)
def test_another_set_of_instructions(isa: Isa, reference: list[str], tmp_path: Path) -> None:
    assert lines(str(build.compiler()), isa.flags, tmp_path) == reference


@pytest.mark.parametrize("flags", ["-march=armv8.2-a+dotprod", "-march=armv8-a"])
@pytest.mark.skipif(not all(map(shutil.which, ARM)), reason="needs g++-aarch64-linux-gnu and qemu-user")
def test_arm(flags: str, reference: list[str], tmp_path: Path) -> None:
    assert lines(ARM[0], ("-static", flags), tmp_path, ARM[1]) == reference
