"""A package runs in Python and in C++, and computes what the graph does on fxquant's kernels."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fxquant
from fxquant import InputError
from fxquant.kernels import copy_libraries
from fxquant.kernels.cpu.build import compiler
from tests.support.models import SIZE, images, small_vit
from tests.support.needs_cpu_kernels import needs_kernels
from tests.torch_export.test_pt2e_program import mlp

CPP = Path(__file__).parents[2] / "examples" / "cpp"
CLASSES = [f"class {index}" for index in range(10)]
TORCH = Path(torch.__file__).parent

pytestmark = [needs_kernels, pytest.mark.skipif(compiler() is None, reason="no C++ compiler")]


def test_refuses_other_graphs_and_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a file name that ends in \.pt2"):
        fxquant.export_aoti(mlp("int8"), tmp_path / "model.so")
    with pytest.raises(
        InputError, match=r"an int8 graph from fxquant\.convert or fxquant\.load, found one at stage quantised"
    ):
        fxquant.export_aoti(mlp("fake"), tmp_path / "model.pt2")
    with pytest.raises(InputError, match="found one on meta"):
        fxquant.export_aoti(copy.deepcopy(mlp("int8")).to("meta"), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module", params=["minmax", "fqvit"])
def package(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, torch.fx.GraphModule]:
    """Return a package, and the graph that it was made of, with int8 products inside attention."""
    gm: Any = fxquant.quantize(small_vit(depth=1), [images()], request.param, attention=True, progress=False)
    gm.class_names = CLASSES
    path = tmp_path_factory.mktemp("package") / "model.pt2"
    fxquant.export_aoti(gm, path)
    return path, gm


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the program of examples/cpp, built as its CMakeLists.txt says, which needs CMake."""
    made = tmp_path_factory.mktemp("program") / "fxquant_run"
    include = [f"-I{TORCH / 'include'}", f"-I{TORCH / 'include/torch/csrc/api/include'}"]
    libraries = [f"-L{TORCH / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10", "-ldl"]
    command = [str(compiler()), "-std=c++20", str(CPP / "main.cpp"), *include, "-o", str(made), *libraries]
    subprocess.run([*command, f"-Wl,-rpath,{TORCH / 'lib'}"], check=True)
    return made


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_a_package_runs_in_python_and_in_cpp(
    package: tuple[Path, torch.fx.GraphModule], program: Path, tmp_path: Path
) -> None:
    path, gm = package
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    loaded = torch._inductor.aoti_load_package(str(path))
    copy_libraries(tmp_path / "libraries")
    for batch in (4, 1, 3):
        x = images(batch, batch)
        with torch.no_grad():
            expected = loaded(x)
            torch.testing.assert_close(expected, gm(x), atol=1e-5, rtol=1e-5)
        found, printed = run_cpp(program, path, tmp_path, x)
        assert torch.equal(found, expected)
        assert f"fxquant.class_names: {json.dumps(CLASSES)}" in printed


@pytest.mark.long
def test_the_program_says_what_is_wrong(program: Path, tmp_path: Path) -> None:
    arguments: list[str | Path] = [program, "model.pt2", tmp_path, "images", "1x3x32x32", "logits"]
    run = subprocess.run(arguments, capture_output=True, text=True)
    assert run.returncode == 1
    assert "schemas.so" in run.stderr


@pytest.mark.long
@pytest.mark.skipif(shutil.which("cmake") is None, reason="no CMake")
def test_cmake_builds_the_program(tmp_path: Path) -> None:
    subprocess.run(["cmake", "-S", CPP, "-B", tmp_path, f"-DTORCH={TORCH}", "-DCMAKE_BUILD_TYPE=Debug"], check=True)
    subprocess.run(["cmake", "--build", tmp_path], check=True)
    assert (tmp_path / "fxquant_run").exists()


def run_cpp(program: Path, package: Path, folder: Path, x: Tensor) -> tuple[Tensor, str]:
    """Return what the program computes for the images `x`, and what it prints."""
    x.numpy().tofile(folder / "images")
    sizes = f"{len(x)}x3x{SIZE}x{SIZE}"
    arguments: list[str | Path] = [program, package, folder / "libraries", folder / "images", sizes, folder / "logits"]
    run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return torch.from_numpy(np.fromfile(folder / "logits", dtype=np.float32)).reshape(len(x), -1), run.stdout
