"""A wheel carries the kernels: where there is no compiler it is installed, runs the demo, and reports name the kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from fxquant.kernels.cpu import build
from tests.support.needs_cpu_kernels import needs_kernels

ROOT = Path(__file__).parents[1]
REPORT = """
import torch, timm, fxquant
from fxquant.kernels import use_isa
model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1).eval()
graph = fxquant.quantize(model, [torch.randn(2, 3, 32, 32)], "minmax")
print(*{record.kernel for record in fxquant.report(fxquant.compile(graph)) if record.int8}, sep=", ")
x, found = torch.randn(2, 3, 32, 32), []
for name in ("avx2", "portable"):
    with use_isa(name), torch.no_grad():
        found.append(graph(x))
assert torch.equal(*found)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, and return the programs of an environment that has it beside the packages of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(ROOT),
    ]
    environment = os.environ | {"FXQUANT_BUILD_KERNELS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    assert wheel.name.startswith("fxquant-")
    assert "-py3-none-linux" in wheel.name
    venv.create(folder / "environment", with_pip=True)
    programs = folder / "environment/bin"
    subprocess.run(
        [programs / "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True, capture_output=True
    )
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "environment")}))
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"))
    return programs


def run(programs: Path, *command: str) -> str:
    """Run a command of the environment, with no other program in reach, and return what it prints."""
    home = programs.parent / "home"
    environment = {"PATH": str(programs), "HOME": str(home), "XDG_CACHE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [programs / command[0], *command[1:]],
        env=environment,
        cwd=programs,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list(home.glob("fxquant/*.so")), "nothing is built"
    return done.stdout


@pytest.mark.long
@needs_kernels
@pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")
def test_the_wheel_runs_where_there_is_no_compiler(installed: Path) -> None:
    kernels = json.loads(run(installed, "fxquant", "env", "--json", "-"))["kernels"]
    assert kernels["compiler"] is None
    assert kernels["obstacle"] is None
    assert set(kernels["isas"].values()) == {"in the package"}
    assert run(installed, "python", "-c", REPORT).strip().startswith("fxquant AVX")
    assert "W8A8 int8    99.40" in run(installed, "fxquant", "demo", "--rounds", "3")
