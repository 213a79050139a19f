"""Graphs of every stage go through `torch.export`, into a file and out of it, and compute the same in another process."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx

import fxquant
from fxquant import BinaryWeightStep, LearnedStep, LearnedWeightStep, TensorSpec
from fxquant.kernels import cpu, use_backend
from fxquant.observers.base import ObserverOptions
from tests.support.models import images, small_vit

# Whose operators differ.
RECIPES = ("default", "minmax", "dynamic", "adalog", "ptq4vit", "noisyquant", "fqvit", "itpn")
STAGES = ("calibrated", "fake", "int8", "compiled")
RUN = """
import json, sys, torch
from fxquant import ops
from fxquant.kernels import cpu
cpu.is_available()  # loads the kernels
torch.set_num_threads(1)
equal = {}
for file in sys.argv[1:]:
    module = torch.export.load(file).module()
    with torch.no_grad():
        equal[file] = [torch.equal(module(x), y) for x, y in torch.load(file + ".pairs")]
print(json.dumps(equal))
"""


def exported(gm: fx.GraphModule) -> torch.export.ExportedProgram:
    return torch.export.export(gm, (images(),), dynamic_shapes=({0: torch.export.Dim("batch")},))


def pairs(gm: fx.GraphModule) -> list[tuple[Tensor, Tensor]]:
    """Return batches of several sizes, and what torch's operators, which are what is exported, make of them in `gm`."""
    with torch.no_grad(), use_backend("aten"):
        return [(x, gm(x)) for x in (images(), images(3, 1), images(1, 2))]


def in_training(w_bits: int) -> fx.GraphModule:
    prepared = fxquant.prepare_qat(small_vit(depth=1), fxquant.recipe("vvtq", w_bits, 4), images())
    prepared(images())
    return prepared


def stages(folder: Path) -> Iterator[tuple[str, fx.GraphModule]]:
    """Yield a graph of every stage, of every recipe."""
    yield "float", fxquant.trace(small_vit(depth=1), images())
    yield "prepared", fxquant.prepare(small_vit(depth=1), None, images())
    for target in ("fake", "int8"):
        gm = fxquant.quantize(small_vit(depth=1), [images()], target=target, progress=False)
        fxquant.save(gm, folder / "model.safetensors")
        yield f"loaded {target}", fxquant.load(folder / "model.safetensors")
    for w_bits in (1, 4):
        prepared = in_training(w_bits).eval()
        yield f"vvtq {w_bits} prepared", prepared
        yield f"vvtq {w_bits} int8", fxquant.convert(prepared)
    for recipe in RECIPES:
        prepared = fxquant.prepare(small_vit(depth=1), fxquant.recipe(recipe), images())
        yield f"{recipe} calibrated", fxquant.calibrate(prepared, [images(4, 1)], progress=False)
        yield f"{recipe} fake", fxquant.convert(prepared, "fake")
        yield f"{recipe} int8", (int8 := fxquant.convert(prepared))
        yield f"{recipe} compiled", fxquant.compile(int8).graph_module  # type: ignore[misc]


@pytest.fixture(scope="module")
def equal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bool]]:
    """Return whether each result is the same in another process, which has the programs alone, by name of the graph."""
    folder, files = tmp_path_factory.mktemp("programs"), {}
    for name, gm in stages(folder):
        file = str(folder / f"{name.replace(' ', '_')}.pt2")
        torch.save(pairs(gm), f"{file}.pairs")
        program = exported(gm)
        if name.endswith("compiled") and cpu.is_available():
            assert any("fxquant.cpu_" in str(n.target) for n in program.graph.nodes)
        torch.export.save(program, file)
        files[file] = name
    run = subprocess.run([sys.executable, "-c", RUN, *files], capture_output=True, text=True, check=True)
    return {files[file]: found for file, found in json.loads(run.stdout).items()}


@pytest.mark.long
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_stage_of_a_recipe(equal: dict[str, list[bool]], recipe: str) -> None:
    assert {stage: equal[f"{recipe} {stage}"] for stage in STAGES} == dict.fromkeys(STAGES, [True] * 3)


@pytest.mark.long
def test_other_graphs(equal: dict[str, list[bool]]) -> None:
    names = ["float", "prepared", "loaded fake", "loaded int8"]
    names += [f"vvtq {w_bits} {stage}" for w_bits in (1, 4) for stage in ("prepared", "int8")]
    assert {name: equal[name] for name in names} == dict.fromkeys(names, [True] * 3)


@pytest.mark.parametrize("options", [BinaryWeightStep(), LearnedWeightStep(), LearnedStep(learned_bits=True)])
def test_a_quantiser_in_training_comes_back_from_its_file(options: ObserverOptions) -> None:
    binary = isinstance(options, BinaryWeightStep)
    module = TensorSpec(2 if binary else 4, True, True, observer=options, narrow=binary).build("weight")
    x = torch.randn(3, 4)
    module(x)
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, (x,)), file)
    file.seek(0)
    assert torch.equal(torch.export.load(file).module()(x), module(x))
