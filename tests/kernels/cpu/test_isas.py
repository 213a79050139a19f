"""The kernels for every set of instructions pass the tests of the kernels, and Python and C++ know the same sets."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fxquant.errors import ConfigError
from fxquant.kernels import cpu, use_isa
from fxquant.kernels.cpu import ISAS, build
from fxquant.kernels.cpu.isa import isas_here, missing_here, usual_isa
from fxquant.kernels.cpu.libraries import part_library
from tests.support.needs_cpu_kernels import needs_kernels

pytestmark = needs_kernels
ROOT = Path(__file__).parents[3]
FILES = ("all_values", "attention", "layer_norm", "learned_step", "operators", "tokens", "variation", "weight_scales")


def test_c_plus_plus_finds_the_sets_that_python_does() -> None:
    dispatch = ctypes.CDLL(str(part_library(build.DISPATCH)))
    found = {isa.name for isa in ISAS if dispatch.fxquant_supports(isa.name.encode())}
    assert found == {isa.name for isa in isas_here()}
    assert not dispatch.fxquant_supports(b"avx1024")


def test_a_set_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="unknown instruction set 'sse2': expected one of 'avx512_bf16', "):
        use_isa("sse2")


def test_a_set_that_this_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    with pytest.raises(ConfigError, match="cannot run 'avx_vnni', it has no fma3, avx_vnni"):
        use_isa("avx_vnni")


def test_the_environment_names_the_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FXQUANT_ISA", "portable")
    assert usual_isa() == next(isa for isa in ISAS if isa.name == "portable")
    monkeypatch.setenv("FXQUANT_ISA", "best")
    with pytest.raises(ConfigError, match="unknown instruction set 'best'"):
        usual_isa()


@pytest.mark.long
@pytest.mark.parametrize("isa", [isa for isa in ISAS if not missing_here(isa)], ids=lambda isa: isa.name)
def test_the_tests_of_the_kernels_pass(isa: cpu.Isa) -> None:
    tests = ["tests/kernels/test_checks.py", *(f"tests/kernels/cpu/test_{name}.py" for name in FILES)]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-rs",
        "-p",
        "no:randomly",
        "-p",
        "no:xdist",
        "-k",
        "not every_float32",
        *tests,
    ]
    environment = os.environ | {"FXQUANT_ISA": isa.name}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-10_000:]
    assert "SKIPPED" not in done.stdout


@pytest.mark.long
def test_a_block_on_another_set() -> None:
    before = cpu.isa_in_use()
    with use_isa("portable"):
        assert cpu.isa_in_use() == next(isa for isa in ISAS if isa.name == "portable")
        codes = cpu.quantize(torch.tensor([0.3, -7.0]), cpu.Quantizer(torch.tensor(0.1), None, None, None, None, -8, 7))
    assert codes.tolist() == [3, -8]
    assert cpu.isa_in_use() == before
