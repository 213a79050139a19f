"""Files that version 0.1.0 wrote before the modules moved are read as ever, and give what they gave then."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fxquant

FOLDER = Path(__file__).parents[1] / "data" / "saved_before"
OUTPUTS = load_file(FOLDER / "outputs.safetensors")
FILES = sorted(file.stem for file in FOLDER.glob("*.safetensors") if file.stem != "outputs")


def test_every_file_has_its_output() -> None:
    assert {*FILES, "images"} == OUTPUTS.keys()


@pytest.mark.parametrize("name", FILES)
def test_gives_what_it_gave(name: str) -> None:
    gm = fxquant.load(FOLDER / f"{name}.safetensors").eval()
    with torch.no_grad():
        found = gm(OUTPUTS["images"])
    # Other processors and threads add floats in another order.
    assert (found - OUTPUTS[name]).norm() <= 1e-2 * OUTPUTS[name].norm()


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("calibrated", "trained"))])
def test_is_converted_still(name: str) -> None:
    gm = fxquant.convert(fxquant.load(FOLDER / f"{name}.safetensors"))
    assert fxquant.report(gm).coverage > 0.5
    with torch.no_grad():
        found = gm(OUTPUTS["images"])
    assert (found - OUTPUTS[name]).norm() <= 0.5 * OUTPUTS[name].norm()
